"""How far the outputs of two models are from each other."""

from __future__ import annotations

import math

import pytest
import torch

from graphprune.calibration.output_error import DenseOutputs, OutputTensors, check_comparable, compared_outputs
from graphprune.errors import InputError


def output_error(found: OutputTensors, wanted: OutputTensors) -> float:
    return DenseOutputs(wanted).error(found)


def test_what_has_another_shape_does_not_count() -> None:
    wanted = [torch.tensor([[1.0], [3.0]]), torch.ones(1, 4)]
    found = [torch.tensor([[1.0], [4.0]]), torch.ones(1, 1)]
    assert output_error([found], [wanted]) == pytest.approx(1 / 2)


def test_the_mean_of_each_channel_has_the_error_one() -> None:
    wanted = torch.randn(12, 3) + torch.tensor([0.0, 100.0, -5.0])
    assert output_error([[wanted.mean(0).expand(12, 3)]], [[wanted]]) == pytest.approx(1, rel=1e-5)
    assert output_error([[wanted]], [[wanted]]) == 0


@pytest.mark.parametrize("size", [1, 5, 12])
def test_it_does_not_depend_on_how_batches_are_cut(size: int) -> None:
    wanted, found = torch.randn(2, 12, 4, 3, generator=torch.Generator().manual_seed(0))
    cut = output_error([[t] for t in found.split(size)], [[t] for t in wanted.split(size)])
    assert cut == pytest.approx(output_error([[found]], [[wanted]]), rel=1e-9)


def test_masked_scores_do_not_count_and_other_infinite_ones_do() -> None:
    wanted = torch.tensor([[1.0, -math.inf], [2.0, -math.inf], [3.0, 1.0], [4.0, 3.0]])
    found = wanted.clone()
    found[0, 0] = 2.0
    assert output_error([[found]], [[wanted]]) == pytest.approx(1 / (5 + 2))
    found[0, 0] = math.nan
    assert output_error([[found]], [[wanted]]) == math.inf


def test_of_an_output_with_logits_these_alone_are_compared() -> None:
    logits, other = torch.ones(2, 3), torch.ones(4)
    assert [t is logits for t in compared_outputs({"loss": other, "logits": logits, "hidden": other})] == [True]
    assert len(compared_outputs({"hidden": other, "scores": logits, "numbers": torch.ones(2, dtype=torch.int64)})) == 2


def test_outputs_without_numbers_are_refused() -> None:
    with pytest.raises(InputError, match=r"allocation: the model's output has no tensor with entries"):
        check_comparable([[]], "allocation", "do")
    with pytest.raises(InputError, match="has no finite number"):
        check_comparable([[torch.full((2,), math.nan)]], "importance", "do")


def test_where_nothing_can_be_compared_the_error_is_infinite() -> None:
    assert output_error([[]], [[]]) == math.inf
    assert output_error([[torch.ones(1)]], [[torch.ones(2)]]) == math.inf
