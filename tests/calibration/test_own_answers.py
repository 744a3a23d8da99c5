"""Losses without labels: answers that are drawn from a model's outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.calibration.own_answers import answer_loss, draw_answers


def drawn(output: Tensor, seed: int = 0) -> tuple[str, Tensor]:
    (answer,) = draw_answers(output, torch.Generator().manual_seed(seed))
    return answer


def test_probabilities_of_classes_give_a_class_as_often_as_they_say() -> None:
    kind, values = drawn(torch.tensor([[0.7, 0.2, 0.1]]).expand(20000, 3))
    assert kind == "class"
    assert torch.equal(values.sum(1), torch.ones(20000))
    torch.testing.assert_close(values.mean(0), torch.tensor([0.7, 0.2, 0.1]), atol=0.02, rtol=0)


def test_other_probabilities_give_ones_and_zeros_and_all_else_signs() -> None:
    kind, values = drawn(torch.full((20000,), 0.3))
    assert kind == "yes or no"
    assert float(values.mean()) == pytest.approx(0.3, abs=0.02)
    kind, values = drawn(torch.randn(50, 4))
    assert kind == "signs"
    assert set(values.unique().tolist()) == {-1.0, 1.0}


def test_the_loss_is_the_negative_logarithm_of_the_answers_probability() -> None:
    output = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64)
    kind, values = drawn(output)
    torch.testing.assert_close(answer_loss(output, [(kind, values)]), -output[values == 1].log().sum())


@pytest.mark.parametrize("importance", ["taylor", "fisher", "kfac", "surgeon"])
def test_scores_need_no_labels_and_do_not_depend_on_batches(importance: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 5)).eval()
    samples = torch.randn(16, 6)
    plans = [
        graphprune.trace(model, samples[:2]).plan(0.5, importance=importance, calibration=samples.split(size))
        for size in (1, 4, 16)
    ]
    assert plans[0].removed == plans[1].removed == plans[2].removed
