"""How far the outputs of two models are from each other."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from graphprune.calibration.output_error import (
    DenseOutputs,
    OutputError,
    OutputTensors,
    check_comparable,
    compared_outputs,
)
from graphprune.errors import InputError


def output_error(found: OutputTensors, wanted: OutputTensors) -> float:
    return DenseOutputs(wanted).error(found).value


def test_what_has_another_shape_does_not_count() -> None:
    wanted = [torch.tensor([[1.0], [3.0]]), torch.ones(1, 4)]
    found = [torch.tensor([[1.0], [4.0]]), torch.ones(1, 1)]
    assert output_error([found], [wanted]) == pytest.approx(1 / 2)


def by_sample(numbers: list[float]) -> OutputError:
    return OutputError(sum(numbers), {0: torch.tensor(numbers, dtype=torch.float64)})


def test_noise_is_the_standard_error_of_a_difference_of_two_errors() -> None:
    first, second = by_sample([1.0, 2.0, 4.0, 9.0]), by_sample([1.0, 1.0, 1.0, 1.0])
    differences = [0.0, 1.0, 3.0, 8.0]
    variance = sum((one - 3.0) ** 2 for one in differences) / 3
    assert first.noise(second) == second.noise(first) == pytest.approx(math.sqrt(4 * variance))
    assert first.noise(by_sample([2.0, 3.0, 5.0, 10.0])) == 0  # the same more for every sample


def test_of_one_sample_or_other_shapes_no_noise_is_known() -> None:
    assert by_sample([3.0]).noise(by_sample([1.0])) == 0
    assert by_sample([3.0, 1.0]).noise(by_sample([1.0])) == 0
    assert by_sample([3.0, 1.0]).noise(OutputError(math.inf, {})) == 0


@pytest.mark.parametrize("count", [1, 2, 5])
def test_what_samples_add_does_not_depend_on_batches(count: int) -> None:
    """Of values, of probabilities one by one, and of classes with rows that are masked altogether."""
    torch.manual_seed(0)
    values, chances, classes = torch.randn(10, 3, 4), torch.rand(10, 6), torch.randn(10, 4, 5) * 8
    for wanted in (values, chances, classes):
        found = wanted + torch.randn_like(wanted) * 0.1
        found = found.clamp(0, 1) if wanted is chances else found
        if wanted is classes:
            wanted[3, 2:] = found[3, 2:] = -math.inf
        whole = DenseOutputs([[wanted]]).error([[found]])
        parts = DenseOutputs([[one] for one in wanted.chunk(count)]).error([[one] for one in found.chunk(count)])
        assert len(whole.parts[0]) == 10 and bool((whole.parts[0] > 0).all())
        assert torch.allclose(parts.parts[0], whole.parts[0], rtol=1e-10)
        assert whole.value == pytest.approx(float(whole.parts[0].sum()))


def test_the_mean_of_each_channel_has_the_error_one() -> None:
    wanted = torch.randn(12, 3) + torch.tensor([0.0, 100.0, -5.0])
    assert output_error([[wanted.mean(0).expand(12, 3)]], [[wanted]]) == pytest.approx(1, rel=1e-5)
    assert output_error([[wanted]], [[wanted]]) == 0


def sure(rows: int = 40, classes: int = 5) -> Tensor:
    """Scores of a classifier that is mostly sure."""
    generator = torch.Generator().manual_seed(0)
    one_hot = torch.eye(classes, dtype=torch.float64)[torch.randint(classes, (rows,), generator=generator)]
    return 5 * one_hot + torch.randn(rows, classes, generator=generator, dtype=torch.float64)


def test_scores_of_classes_are_as_far_as_their_probabilities_diverge() -> None:
    wanted = sure()
    found = wanted + torch.randn(wanted.shape, generator=torch.Generator().manual_seed(1))
    chances, mean = wanted.softmax(-1), wanted.softmax(-1).mean(0)
    lost = (chances * (wanted.log_softmax(-1) - found.log_softmax(-1))).sum()
    information = (chances * (chances.log() - mean.log())).sum()
    assert output_error([[found]], [[wanted]]) == pytest.approx(float(lost / information))
    assert output_error([[found.softmax(-1)]], [[chances]]) == pytest.approx(float(lost / information))
    assert output_error([[wanted + torch.arange(40.0)[:, None]]], [[wanted]]) == pytest.approx(0, abs=1e-12)


def test_the_mean_probabilities_have_the_error_one() -> None:
    chances = sure().softmax(-1)
    assert output_error([[chances.mean(0).log().expand(40, 5)]], [[sure()]]) == pytest.approx(1)
    assert output_error([[chances.mean(0).expand(40, 5)]], [[chances]]) == pytest.approx(1)
    alone = sure().sigmoid()
    assert output_error([[alone.mean(0).expand(40, 5)]], [[alone]]) == pytest.approx(1)
    assert output_error([[alone]], [[alone]]) == pytest.approx(0, abs=1e-12)


def test_of_a_single_row_equal_chances_have_the_error_one() -> None:
    chances = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64)
    assert output_error([[torch.full((1, 3), 1 / 3, dtype=torch.float64)]], [[chances]]) == pytest.approx(1)
    alone = torch.tensor([[0.9, 0.3]], dtype=torch.float64)
    assert output_error([[torch.full((1, 2), 0.5, dtype=torch.float64)]], [[alone]]) == pytest.approx(1)


def test_probabilities_that_are_zero_have_a_finite_error() -> None:
    wanted, found = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert 1 < output_error([[found]], [[wanted]]) < math.inf


def test_masked_classes_do_not_count_and_rows_that_are_masked_altogether_neither() -> None:
    wanted = sure().index_fill(1, torch.tensor([2]), -math.inf)
    assert output_error([[wanted]], [[wanted]]) == pytest.approx(0, abs=1e-12)
    found, masked = wanted.roll(1, 0), torch.full((3, 5), -math.inf)
    with_masked = output_error([[torch.cat([found, masked])]], [[torch.cat([wanted, masked])]])
    assert with_masked == pytest.approx(output_error([[found]], [[wanted]]))


@pytest.mark.parametrize("make", [sure, lambda: sure().softmax(-1), lambda: sure().sigmoid()])
def test_divergences_do_not_depend_on_how_batches_are_cut(
    make: Callable[[], Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = make()
    found = wanted.flip(0)
    whole = output_error([[found]], [[wanted]])
    for size in (1, 7):
        cut = output_error([[t] for t in found.split(size)], [[t] for t in wanted.split(size)])
        assert cut == pytest.approx(whole, rel=1e-9)
    monkeypatch.setattr("graphprune.calibration.output_kinds.COPIED", 11)
    assert output_error([[found]], [[wanted]]) == pytest.approx(whole, rel=1e-9)


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
