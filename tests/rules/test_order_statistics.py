"""Medians, the k-th value and running extremes of channels are taken over those that are left; sorting holds them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.rules.reduction import masked_median

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """What comes from the channels of a layer is subtracted from each of them."""

    def __init__(self, statistic: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.statistic, self.enter, self.leave = statistic, nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        return self.leave(h - self.statistic(h))


FOLLOW: dict[str, Callable[[Tensor], Tensor]] = {
    "median": lambda h: h.median(1, keepdim=True).values,
    "median, squeezed": lambda h: h.median(1).values[:, None],
    "median of numbers": lambda h: h.nanmedian(1, keepdim=True).values,
    "median of all": lambda h: h.median(),
    "median of all numbers": lambda h: h.nanmedian(),
    "second": lambda h: h.kthvalue(2, 1, keepdim=True).values,
    "running maximum": lambda h: h.cummax(1).values,
    "running minimum": lambda h: h.cummin(1).values,
}


@pytest.mark.parametrize("name", FOLLOW)
def test_statistics_are_those_of_the_channels_that_are_left(name: str) -> None:
    net = Net(FOLLOW[name]).eval()
    graph = graphprune.trace(net, X)
    plan = graph.plan(0.5)
    slim = plan.apply(net)
    assert slim.enter.out_features == 8
    check = graphprune.verify(net, slim, plan, X)
    assert check.passed
    assert len(check.inexact) == 1


def test_as_many_are_left_as_the_kth_value_asks_for() -> None:
    plan = graphprune.trace(Net(lambda h: h.kthvalue(11, 1, keepdim=True).values).eval(), X).plan(0.9)
    assert [choice.kept for choice in plan.choices] == [11]


HELD: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "numbers of medians": (lambda h: h.median(1, keepdim=True).indices, "median: returns the number of a channel"),
    "numbers on the way": (lambda h: h.cummax(1).indices, "cummax: returns the number of a channel"),
    "sorted": (lambda h: h.sort(1).values[:, -1:], "sort: puts channels in the order of their values"),
    "quantile": (lambda h: h.quantile(0.3, 1, keepdim=True), "sort: puts channels in the order of their values"),
    "most frequent": (lambda h: h.mode(1, keepdim=True).values, "mode: counts how often channels have a value"),
}


@pytest.mark.parametrize("name", HELD)
def test_reasons_say_what_is_done_with_channels(name: str) -> None:
    statistic, text = HELD[name]
    graph = graphprune.trace(Net(statistic).eval(), X)
    reasons = {str(frozen.axis): str(frozen.reason) for frozen in graph.frozen}
    assert reasons["enter.weight[0]"].startswith(text)


def test_the_median_of_what_lives_is_not_a_number_where_one_of_these_is_not() -> None:
    x = torch.tensor([[1.0, float("nan"), 3.0, 2.0], [float("nan"), 4.0, 6.0, 5.0]], device="cpu")
    alive = torch.tensor([[True, False, True, True]], device="cpu").expand(2, 4)
    values, _ = masked_median(alive, x, 1)
    assert values.isnan().tolist() == [False, True]
    assert values[0] == 2
