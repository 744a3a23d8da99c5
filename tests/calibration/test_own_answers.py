"""Losses without labels: answers that are drawn from a model's outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.calibration.output_kinds import CLASSES, SCORES, VALUES, YES_OR_NO, kinds_of
from graphprune.calibration.own_answers import Answer, answer_loss, draw_answers


def drawn(output: Tensor, seed: int = 0) -> Answer:
    (answer,) = draw_answers(output, kinds_of([[output]]), torch.Generator().manual_seed(seed))
    return answer


def test_probabilities_of_classes_give_a_class_as_often_as_they_say() -> None:
    kind, values = drawn(torch.tensor([[0.7, 0.2, 0.1]]).expand(20000, 3))
    assert kind.name == CLASSES
    assert torch.equal(values.sum(1), torch.ones(20000))
    torch.testing.assert_close(values.mean(0), torch.tensor([0.7, 0.2, 0.1]), atol=0.02, rtol=0)


def test_other_probabilities_give_ones_and_zeros_and_all_else_signs() -> None:
    kind, values = drawn(torch.full((20000,), 0.3))
    assert kind.name == YES_OR_NO
    assert float(values.mean()) == pytest.approx(0.3, abs=0.02)
    kind, values = drawn(torch.randn(50, 4))
    assert kind.name == VALUES
    assert set(values.unique().tolist()) == {-1.0, 1.0}


def test_the_loss_is_the_negative_logarithm_of_the_answers_probability() -> None:
    output = torch.tensor([[0.7, 0.2, 0.1]], dtype=torch.float64)
    kind, values = drawn(output)
    torch.testing.assert_close(answer_loss(output, [Answer(kind, values)]), -output[values == 1].log().sum())


def test_scores_give_a_class_as_often_as_their_softmax_says() -> None:
    scores = torch.tensor([[4.0, 2.0, 0.0], [0.0, 3.0, 5.0]], dtype=torch.float64).repeat(10000, 1)
    kind, values = drawn(scores)
    assert kind.name == SCORES
    torch.testing.assert_close(values.mean(0), scores.softmax(-1).mean(0), atol=0.02, rtol=0)
    loss = answer_loss(scores, [Answer(kind, values)])
    torch.testing.assert_close(loss, -scores.log_softmax(-1)[values == 1].sum())


def test_images_of_scores_have_their_classes_in_the_second_dimension() -> None:
    scores = 5 * torch.eye(4)[torch.randint(4, (2, 6, 6), generator=torch.Generator().manual_seed(0))]
    kind, values = drawn(scores.permute(0, 3, 1, 2))
    assert (kind.name, kind.dim) == (SCORES, 1)
    assert torch.equal(values.sum(1), torch.ones(2, 6, 6))


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
