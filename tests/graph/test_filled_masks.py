"""``x[mask] = number``, ``x[mask] *= number``: writes that count no entries are elementwise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphprune


def everywhere(h: Tensor) -> None:
    h[h == 0] = 1e-6
    h[h < 0] = 0.1


def rows(h: Tensor) -> None:
    h[h.sum(-1) > 0] = 0.3


def columns(h: Tensor) -> None:
    h[:, h.sum(0) > 0] = 0.3


def one_number_in_a_vector(h: Tensor) -> None:
    h[h < 0] = torch.full((1,), 0.2)


def numbers(h: Tensor) -> None:
    """Entries are counted: the third and the first."""
    h[:, torch.tensor([2, 0])] = 0.3


def rows_of_a_like(h: Tensor) -> None:
    mask = torch.zeros_like(h, dtype=torch.bool)
    mask[2:] = True
    h.masked_fill_(mask, 0)


def rows_of_a_shape(h: Tensor) -> None:
    mask = torch.full(h.shape, False)
    mask[2:] = True
    h.masked_fill_(mask, 0)


def all_of_a_size(h: Tensor) -> None:
    h.mul_(torch.ones(h.shape[1], dtype=torch.bool))


class Filled(nn.Module):
    def __init__(self, fill: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.fill, self.enter, self.leave = fill, nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        self.fill(h)
        return self.leave(h)


@pytest.mark.parametrize(
    "fill", [everywhere, rows, columns, one_number_in_a_vector, rows_of_a_like, rows_of_a_shape, all_of_a_size]
)
def test_what_a_mask_fills_loses_channels(fill: Callable[[Tensor], None]) -> None:
    net, x = Filled(fill).eval(), torch.randn(4, 6)
    plan = graphprune.trace(net, x).plan(0.5)
    slim = plan.apply(net)
    assert slim.enter.out_features == 4
    assert graphprune.verify(net, slim, plan, x).passed


def test_what_numbers_fill_stays() -> None:
    with pytest.raises(graphprune.PlanError, match="entries are written by number"):
        graphprune.trace(Filled(numbers).eval(), torch.randn(4, 6)).plan(0.5)


# ---------------------------------------------------------------- entries that are picked, changed and written back


def _double(h: Tensor) -> Tensor:
    low = h < 0
    h[low] = h[low].double().exp().to(h.dtype)
    return h


def _of_another(h: Tensor) -> Tensor:
    y = torch.zeros_like(h)
    low = h < 0.5
    y[low] = torch.exp(h[low]) - h[low].relu() * h.amax()
    return y


def _times(h: Tensor) -> Tensor:
    h[h < 0] *= 0.1
    return h


def _plus(h: Tensor) -> Tensor:
    h[h < 0.3] += 0.3
    return h


def _whole_columns(h: Tensor) -> Tensor:
    h[:, h.sum(0) > 0] *= 2
    return h


def _one(h: Tensor) -> Tensor:
    """torch makes a number without dimensions of a single entry before it writes it."""
    h[h == h.amax()] *= 2
    return h


def _none(h: Tensor) -> Tensor:
    h[h > 1e9] *= 2
    return h


class Changed(nn.Module):
    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change, self.enter, self.leave = change, nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.change(self.enter(x)))


@pytest.mark.parametrize("change", [_times, _plus, _double, _of_another, _whole_columns, _one, _none])
def test_what_is_picked_and_written_back_by_a_mask_loses_channels(change: Callable[[Tensor], Tensor]) -> None:
    net, x = Changed(change).eval(), torch.randn(5, 6)
    plan = graphprune.trace(net, x).plan(0.5)
    slim = plan.apply(net)
    assert slim.enter.out_features == 4
    assert graphprune.verify(net, slim, plan, x).passed


def _centered(h: Tensor) -> Tensor:
    low = h < 0
    h[low] = h[low] - h[low].mean()
    return h


def _counted(h: Tensor) -> Tensor:
    low = h < 0
    h[low] = h[low].cumsum(0)
    return h


@pytest.mark.parametrize("change", [_centered, _counted])
def test_picked_entries_of_which_more_is_made_hold_channels(change: Callable[[Tensor], Tensor]) -> None:
    graph = graphprune.trace(Changed(change).eval(), torch.randn(5, 6))
    reason = next(str(frozen.reason) for frozen in graph.frozen if frozen.axis == "enter.weight[0]")
    assert "entries are picked by a mask" in reason
