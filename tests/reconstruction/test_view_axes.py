from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from graphprune.reconstruction.linear_calls import ParameterView, dense_places
from graphprune.reconstruction.view_axes import rows_between, runs_of

DENSE = (6, 4)
KEPT = {0: np.array([0, 2, 3, 5]), 1: np.array([3, 1])}


def _view(tensor: Tensor) -> ParameterView:
    return ParameterView("weight", tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()))


def _parameters() -> tuple[Tensor, Tensor]:
    return torch.zeros(4, 2), torch.zeros(DENSE)


def _by_table(slim: ParameterView, mine: ParameterView, dense: ParameterView, theirs: ParameterView) -> Tensor | None:
    """What :func:`rows_between` says, by a table of all entries."""
    kept = [(dim, torch.from_numpy(index)) for dim, index in KEPT.items()]
    wanted = dense_places(slim, dense, kept)[mine.places()]
    row = torch.full((dense.span,), -1)
    blocks, _, outputs = theirs.size
    row[theirs.places()] = torch.arange(blocks * outputs).view(blocks, 1, outputs).expand(theirs.size)
    rows = row[wanted]
    return rows[:, 0].flatten() if bool(((rows == rows[:, :1]) & (rows >= 0)).all()) else None


VIEWS = {
    "whole": lambda p: p.T[None],
    "of its rows": lambda p: p[None],
    "first half": lambda p: p[: len(p) // 2].T[None],
    "second half": lambda p: p[len(p) // 2 :].T[None],
    "every other": lambda p: p[::2].T[None],
    "in blocks": lambda p: p.view(2, -1, p.shape[1]).mT,
    "a column": lambda p: p[:, :1].T[None],
}


@pytest.mark.parametrize(("one", "other"), list(product(VIEWS, VIEWS)))
def test_rows_of_views_are_those_of_a_table(one: str, other: str) -> None:
    slim, dense = _parameters()
    mine, theirs = _view(VIEWS[one](slim)), _view(VIEWS[other](dense))
    runs = runs_of(mine, _view(slim)), runs_of(theirs, _view(dense))
    if runs[0] is None or runs[1] is None:
        assert "in blocks" in (one, other)
        return
    found = rows_between((mine, runs[0]), (theirs, runs[1]), KEPT)
    expected = _by_table(_view(slim), mine, _view(dense), theirs)
    assert (found is None) == (expected is None)
    assert found is None or found.equal(expected)


def test_the_usual_weight_has_all_its_rows() -> None:
    slim, dense = _parameters()
    mine, theirs = _view(slim.T[None]), _view(dense.T[None])
    runs = runs_of(mine, _view(slim)), runs_of(theirs, _view(dense))
    assert runs[0] is not None
    assert runs[1] is not None
    found = rows_between((mine, runs[0]), (theirs, runs[1]), KEPT)
    assert found is not None
    assert found.tolist() == KEPT[0].tolist()


def test_an_axis_that_runs_over_an_end_is_not_followed() -> None:
    whole = _view(torch.zeros(4, 6))
    assert runs_of(ParameterView("weight", (1, 3, 8), (24, 8, 1)), whole) is None
    assert runs_of(ParameterView("weight", (1, 2, 6), (0, 0, 1)), whole) is None


def test_parameters_in_any_order_of_memory_are_followed() -> None:
    whole = torch.zeros(4, 6).T
    runs = runs_of(_view(whole[1:4:2][None]), _view(whole))
    assert runs is not None
    assert [(run.first, run.step, run.axis) for run in runs] == [(1, 2, 1), (0, 1, 2)]
    assert runs_of(_view(torch.zeros(3).expand(4, 3)[None]), _view(torch.zeros(3).expand(4, 3))) is None
