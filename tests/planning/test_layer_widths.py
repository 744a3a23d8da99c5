"""Multiples are those of the width of a layer, also where some of its channels cannot go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune import Override
from graphprune.planning.options import PruningOptions
from graphprune.planning.planner import plan_once
from graphprune.planning.setup import PlanSetup

IMAGE = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))


class PartlyFrozen(nn.Module):
    """A convolution of 32 channels, some of which are a result of their own."""

    def __init__(self, results: Callable[[PartlyFrozen, Tensor], tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 32, 3, padding=1), nn.BatchNorm2d(32)
        self.whole, self.part = nn.Conv2d(32, 5, 1), nn.Conv2d(16, 5, 1)
        self.results = results

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.results(self, self.norm(self.conv(x)).relu())


def first_two(net: PartlyFrozen, y: Tensor) -> tuple[Tensor, Tensor]:
    return net.whole(y), y[:, :2]


def three_within(net: PartlyFrozen, y: Tensor) -> tuple[Tensor, Tensor]:
    return net.whole(y), y[:, 7:10]


def last_one(net: PartlyFrozen, y: Tensor) -> tuple[Tensor, Tensor]:
    return net.whole(y), y[:, -1:]


def first_of_halves(net: PartlyFrozen, y: Tensor) -> tuple[Tensor, Tensor]:
    one, other = y.chunk(2, 1)
    return net.part(one) + net.part(other), other[:, :2]


def graph_of(model: nn.Module) -> graphprune.ChannelGraph:
    return graphprune.trace(model.eval(), IMAGE)


RESULTS = [first_two, three_within, last_one, first_of_halves]


@pytest.mark.parametrize("results", RESULTS)
@pytest.mark.parametrize("asked", [{"ratio": 0.5, "multiple": 8}, {"params": 0.6, "multiple": 8}, {"macs": 0.6}])
@pytest.mark.filterwarnings("ignore::graphprune.errors.UnreachedWarning")
def test_the_width_is_a_multiple(results: Callable[..., Any], asked: dict[str, Any]) -> None:
    model = PartlyFrozen(results)
    own = {} if "multiple" in asked else {"overrides": {"conv": Override(multiple=8)}}
    slim = graph_of(model).plan(**asked, **own).apply(model)
    assert slim.conv.out_channels in (8, 16)
    assert len(slim(IMAGE)) == 2


def test_the_reason_counts_what_cannot_go() -> None:
    (choice,) = graph_of(PartlyFrozen(first_two)).plan(0.4, multiple=16).choices
    assert (choice.units, choice.kept) == (30, 14)
    assert choice.why == "ratio 0.4; what is left is a multiple of 16 with 2 beside it that cannot go"


@pytest.mark.filterwarnings("ignore::graphprune.errors.NothingRemovedWarning")
def test_of_a_layer_that_can_become_no_smaller_multiple_everything_stays() -> None:
    (choice,) = graph_of(PartlyFrozen(first_two)).plan(0.2, multiple=24).choices
    assert choice.kept == 22
    (choice,) = graph_of(PartlyFrozen(first_two)).plan(0.5, multiple=32).choices
    assert (choice.kept, choice.why) == (30, "ratio 0.5; what is left is a multiple of 32, or everything")


def test_a_latency_budget_keeps_widths_that_kernels_are_written_for() -> None:
    setup = PlanSetup.of(graph_of(PartlyFrozen(first_two)), PruningOptions.of(None, {"params": 0.75}))
    (choice,) = plan_once(replace(setup, aligned=True)).choices
    assert choice.kept == 14
