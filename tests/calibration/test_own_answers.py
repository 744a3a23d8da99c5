"""Losses without labels: answers that are drawn from a model's outputs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.calibration.output_kinds import CLASSES, SCORES, VALUES, YES_OR_NO, kinds_of
from graphprune.calibration.own_answers import SMOOTHING, Answer, answer_loss, draw_answers


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


def test_scores_give_weights_whose_covariance_is_the_fisher_information() -> None:
    row = torch.tensor([9.0, 2.0, 0.0, 1.0], dtype=torch.float64)
    scores = torch.stack([row, row.flip(0)]).repeat(20000, 1)
    kind, values = drawn(scores)
    assert kind.name == SCORES
    chances, mine = (1 - SMOOTHING) * row.softmax(-1) + SMOOTHING / 4, values[::2]
    wanted = chances.diag() - chances[:, None] * chances
    torch.testing.assert_close(mine.T @ mine / len(mine), wanted, atol=0.01, rtol=0)
    torch.testing.assert_close(mine.mean(0), torch.zeros(4, dtype=torch.float64), atol=0.02, rtol=0)
    torch.testing.assert_close(answer_loss(scores, [Answer(kind, values)]), (scores * values).sum())


def test_masked_scores_have_no_part_in_the_loss() -> None:
    rows = [[9.0, -math.inf, 0.0], [0.0, -math.inf, 9.0], [-math.inf] * 3]
    scores = torch.tensor(rows, requires_grad=True)
    loss = answer_loss(scores, [drawn(scores)])
    loss.backward()
    assert loss.isfinite()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert torch.equal(scores.grad[:, 1], torch.zeros(3))


def test_images_of_scores_have_their_classes_in_the_second_dimension() -> None:
    scores = 5 * torch.eye(4)[torch.randint(4, (2, 6, 6), generator=torch.Generator().manual_seed(0))]
    kind, values = drawn(scores.permute(0, 3, 1, 2))
    assert (kind.name, kind.dim) == (SCORES, 1)
    torch.testing.assert_close(values.sum(1), torch.zeros(2, 6, 6), atol=1e-6, rtol=0)


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


class Unrolled(nn.Module):
    """A prediction for each step of as many as there are."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.inner = nn.Linear(10, 8), nn.Linear(9, 16)
        self.back, self.leave = nn.Linear(16, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor, actions: Tensor) -> list[Tensor]:
        state, answers = self.enter(x), []
        for step in actions.split(1, 1):
            state = self.back(torch.relu(self.inner(torch.cat([state, step], 1))))
            answers.append(self.leave(state))
        return answers


@pytest.mark.parametrize("steps", [(3, 5), (5, 3)])
def test_batches_may_have_outputs_for_more_or_fewer_steps(steps: tuple[int, int]) -> None:
    torch.manual_seed(0)
    batches = [(torch.randn(6, 10), torch.rand(6, count)) for count in steps]
    slim = graphprune.prune_model(Unrolled().eval(), 0.5, example_inputs=batches[0], calibration=batches)
    assert slim.inner.out_features == 8
    assert len(slim(*batches[1])) == steps[1]
