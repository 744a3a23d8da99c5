"""Fits from rows that are fewer than the channels, against fits from second moments."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.reconstruction.kept_rows import FEWER
from graphprune.reconstruction.lockstep import WIDE_WEIGHT
from graphprune.reconstruction.regression import BatchMoments, Regression

BLOCKS, CHANNELS, OUTPUTS = 2, 24, 5


def _rows(count: int, m: int = 1) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, BLOCKS, CHANNELS, m, dtype=torch.float64) + 3
    return x, torch.randn(count, BLOCKS, OUTPUTS, m, dtype=torch.float64) + 1


@pytest.mark.parametrize("batches", [(4, 5), (4, 5, 6, 7), (4, 30), (30, 4), (4, 30, 4)], ids=str)
@pytest.mark.parametrize("centered", [True, False])
def test_rows_give_what_second_moments_give(batches: tuple[int, ...], centered: bool) -> None:
    torch.manual_seed(0)
    kept, moments = Regression(), Regression()
    for count in batches:
        x, r = _rows(count, m=2 if count == 4 else 1)
        kept.add_rows(x, r, r)
        moments.add(BatchMoments.of(x, r), r)
    assert (kept.count, kept.channels) == (moments.count, CHANNELS)
    change = moments.solve(0.1, centered)
    torch.testing.assert_close(kept.solve(0.1, centered), change)
    intercept = moments.intercept(change) if centered else None
    torch.testing.assert_close(kept.intercept(change), moments.intercept(change))
    for given in ((), (change,), (change, intercept)):
        assert kept.error(*given) == pytest.approx(moments.error(*given))


def test_matrices_of_channels_are_made_where_there_are_more_rows_alone() -> None:
    few, many = Regression(), Regression()
    few.add_rows(*_rows(CHANNELS // FEWER), torch.ones(1))
    for _ in range(2):
        many.add_rows(*_rows(CHANNELS // FEWER), torch.ones(1))
    assert few.solve(0.1, True).shape == many.solve(0.1, True).shape == (BLOCKS, CHANNELS, OUTPUTS)
    assert isinstance(many._xx, Tensor)
    assert not isinstance(few._xx, Tensor)


def test_inputs_that_are_always_zero_change_nothing() -> None:
    regression = Regression()
    regression.add_rows(torch.zeros(5, 1, 20, 1), torch.randn(5, 1, 2, 1), torch.ones(5, 1, 2, 1))
    assert torch.equal(regression.solve(1e-3, True), torch.zeros(1, 20, 2, dtype=torch.float64))


def test_inputs_that_the_model_overwrites_are_kept_as_they_were() -> None:
    x, r = torch.randn(3, 1, 20, 1), torch.randn(3, 1, 2, 1)
    changed, other = Regression(), Regression()
    for regression in (changed, other):
        given = x.clone()
        regression.add_rows(given, r, r)
        if regression is changed:
            given.zero_()
    assert torch.equal(changed.solve(0.1, True), other.solve(0.1, True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_model_of_more_channels_than_rows_is_repaired(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 3 * WIDE_WEIGHT), nn.ReLU(), nn.Linear(3 * WIDE_WEIGHT, 64)).to(dtype).eval()
    batches = [torch.randn(6, 64).to(dtype) for _ in range(4)]
    plan = graphprune.trace(model, batches[0]).plan(0.5)
    repair = graphprune.repair(plan.apply(model), model, plan, batches)
    assert repair.repaired[-1].after < 0.7 * repair.repaired[-1].before
