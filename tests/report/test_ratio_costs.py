"""What the page of a report counts at each ratio is what plans cost."""

from __future__ import annotations

from math import prod

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.report import ratio_costs
from graphprune.report.measured import MeasuredResults
from graphprune.report.page_data import PageData, page_data
from graphprune.report.ratio_costs import HIGHEST, RatioRange, ratio_ranges, repetitions_at, sizes_at
from models import gpt, hardnet
from tests.networks import ConvNorm


class OnlyOne(nn.Module):
    """A comparison that holds only while more than four channels are left."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        return self.second(hidden.relu() if hidden.shape[-1] > 4 else hidden)


def costs_at(graph: graphprune.ChannelGraph, data: PageData, percent: int) -> dict[str, int]:
    """What the page works out: sizes, and sums of products of them."""
    (found,) = (one for one in data.ranges if one.first <= percent <= one.last)
    sizes = sizes_at(graph, found, percent)
    return {cost.name: sum(s * prod(sizes[d] for d in dims) for _, s, *dims in cost.rows) for cost in data.costs}


@pytest.mark.filterwarnings("ignore::graphprune.NothingRemovedWarning")
@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (hardnet.hardnet(), (1, 3, 32, 32)),
        (nn.Sequential(ConvNorm(3, 16), ConvNorm(16, 16, groups=4), nn.Flatten(), nn.Linear(1024, 3)), (1, 3, 8, 8)),
        (OnlyOne(), (5, 3)),
    ],
    ids=["hardnet", "grouped", "compared"],
)
def test_costs_are_those_of_plans(model: nn.Module, shape: tuple[int, ...]) -> None:
    graph = graphprune.trace(model.eval(), torch.randn(shape))
    data = page_data(graph, None, MeasuredResults())
    assert [one.exact for one in data.ranges] == [True] * len(data.ranges)
    for percent in (1, 30, 74, 76):
        assert costs_at(graph, data, percent) == graph.cost(graph.plan(percent / 100, importance="random")).counts


def test_dense_costs_are_those_of_the_model() -> None:
    graph = graphprune.trace(gpt.gpt().eval())
    data = page_data(graph, None, MeasuredResults())
    dense = {c.name: sum(s * prod(data.sizes[d] for d in dims) for _, s, *dims in c.rows) for c in data.costs}
    assert dense == graph.cost().counts


def ranges_of(model: nn.Module, *shape: int) -> list[RatioRange]:
    return ratio_ranges(graphprune.trace(model.eval(), torch.randn(shape)))


def test_a_range_ends_where_something_else_may_go() -> None:
    """The comparison keeps all channels where four or fewer would be left."""
    low, high = ranges_of(OnlyOne(), 5, 3)
    assert (low.first, low.last, high.first, high.last) == (1, 74, 75, HIGHEST)
    assert repetitions_at(low, 74) == [11] and high.steps == []


def test_what_is_cut_no_further_is_not_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ratio_costs, "MOST_TRIALS", 2)
    (found,) = ranges_of(OnlyOne(), 5, 3)
    assert (found.first, found.last, found.exact) == (1, HIGHEST, False)


def test_a_model_without_groups_has_a_reason_instead() -> None:
    (found,) = ranges_of(nn.Linear(3, 3), 1, 3)
    assert (found.first, found.last) == (1, HIGHEST)
    assert "nothing that can be pruned" in found.error and found.steps == []
