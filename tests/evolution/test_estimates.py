"""What scores say of candidates holds back those that only seem better by few samples."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import graphprune
from graphprune.calibration.output_error import DenseOutputs, outputs_of
from graphprune.evolution.candidates import Allotment
from graphprune.evolution.estimates import Estimate, JudgedLoss

START, WIDER, SHALLOW = Allotment(np.array([1, 2])), Allotment(np.array([2, 1])), Allotment(np.array([0, 1]))
WITHOUT = Allotment(np.array([1, 0]), frozenset([1]))


def space(additive: bool = True, harm: tuple[float, ...] = ()) -> Any:
    """Candidates that lose a tenth for each stop."""
    return SimpleNamespace(
        width=SimpleNamespace(setup=SimpleNamespace(scores=SimpleNamespace(additive=additive))),
        depth=SimpleNamespace(harm=np.array(harm)),
        lost=lambda candidate: 0.1 * float(candidate.passed.sum()),
    )


def test_scores_are_scaled_to_what_is_measured_of_the_start() -> None:
    estimate = Estimate.of(space(), START, lambda candidate: 8.0, dense=2.0)
    assert estimate(START) == pytest.approx(6.0)
    assert estimate(SHALLOW) == pytest.approx(2.0)


@pytest.mark.parametrize("harm", [(3.0, 5.0), (5.0, np.inf)])
def test_branches_lose_what_they_do_alone_and_unmeasured_ones_what_the_worst_does(harm: tuple[float, ...]) -> None:
    estimate = Estimate.of(space(harm=harm), START, lambda candidate: 8.0, dense=2.0)
    assert estimate(WITHOUT) == pytest.approx(2.0 + 3.0)


def test_of_scores_that_are_no_losses_nothing_is_estimated() -> None:
    estimate = Estimate.of(space(additive=False), START, lambda candidate: pytest.fail("nothing to measure"), 0.0)
    assert JudgedLoss(lambda candidate: 3.0, 0.0, estimate)(WIDER) == 3.0


@pytest.mark.parametrize("loss", [2.0, 1.0, float("inf"), float("nan")])
def test_where_the_start_loses_nothing_or_nothing_known_samples_decide_alone(loss: float) -> None:
    estimate = Estimate.of(space(), START, lambda candidate: loss, dense=2.0)
    assert estimate(WIDER) == 0.0


def test_the_first_finite_candidate_says_how_much_the_estimate_weighs() -> None:
    losses = {START.key: float("inf"), WIDER.key: 5.0, SHALLOW.key: 5.0}
    judged = JudgedLoss(lambda candidate: losses[candidate.key], 2.0, Estimate(space(), 0.0, unit=10.0))
    assert judged(START) == float("inf")
    assert judged(WIDER) == pytest.approx(5.0 + 3.0)
    assert judged(SHALLOW) == pytest.approx(5.0 + 1.0)
    assert judged.measured == losses


def test_a_search_by_scores_that_are_losses_says_what_was_measured() -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(8, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 6))
    batches = [torch.randn(32, 8, generator=torch.Generator().manual_seed(n)) for n in range(2)]
    plan = graphprune.trace(model, torch.zeros(1, 8)).plan(
        macs=0.4, importance="obs", calibration=batches, allocation="searched", candidates=20
    )
    slim = plan.apply(model)
    graphprune.repair(slim, model, plan, batches[:1])
    wanted, found = (outputs_of(one, [(0, batches[1])]) for one in (model, slim))
    assert plan.requested["loss"] == f"{DenseOutputs(wanted).error(found).value:.4g}"
