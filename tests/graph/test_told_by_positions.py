"""Attributes that only positions of slices tell: they follow the channels before them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune


class Parts(nn.Module):
    """Twelve channels, of which the first ``first`` go another way than the others."""

    def __init__(self, parts: Callable[[Parts, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.twice, self.parts = 8, 4, 2, parts
        self.sizes, self.config = [8, 4], SimpleNamespace(first=8)
        self.enter, self.leave = nn.Linear(5, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.parts(self, self.enter(x)))


def _joined(x: Tensor, *cuts: int) -> Tensor:
    bounds = [0, *cuts, x.shape[-1]]
    pieces = [x[..., a:b] for a, b in pairwise(bounds)]
    return torch.cat([piece.sin() * (i + 1) for i, piece in enumerate(pieces)], -1)


FOLLOW: dict[str, tuple[Callable[[Parts, Tensor], Tensor], Callable[[Parts], int]]] = {
    "an attribute": (lambda net, x: _joined(x, net.first), lambda net: net.first),
    "from behind": (lambda net, x: _joined(x, -net.last), lambda net: 12 - net.last),
    "in a list": (lambda net, x: _joined(x, net.sizes[0]), lambda net: net.sizes[0]),
    "in an object": (lambda net, x: _joined(x, net.config.first), lambda net: net.config.first),
    "a product": (lambda net, x: _joined(x, net.first // 2 * 2), lambda net: net.first),
    "twice": (lambda net, x: _joined(_joined(x, net.first), net.first), lambda net: net.first),
    "selected": (lambda net, x: _joined(x, net.first) + x[..., 0:1] * 0, lambda net: net.first),
}


@pytest.mark.parametrize("name", FOLLOW)
@pytest.mark.parametrize("seed", range(3))
def test_the_slim_model_is_the_masked_original(name: str, seed: int) -> None:
    torch.manual_seed(seed)
    net, x = Parts(FOLLOW[name][0]).eval(), torch.randn(4, 5)
    plan = graphprune.trace(net, x).plan(0.5, importance="random", seed=seed)
    slim = plan.apply(net)
    assert graphprune.verify(net, slim, plan, x).passed
    assert slim.enter.out_features < 12


def test_the_position_is_the_number_of_channels_before_it() -> None:
    net, x = Parts(FOLLOW["an attribute"][0]).eval(), torch.randn(4, 5)
    plan = graphprune.trace(net, x).plan(0.5)
    slim: Any = plan.apply(net)
    left = plan.mask("enter.weight").any(1)
    assert slim.first == int(left[:8].sum())
    assert slim.enter.out_features == int(left.sum()) == 6


def _read_as_a_number(net: Parts, x: Tensor) -> Tensor:
    return _joined(x, net.first) * float(net.first)


def test_a_position_that_is_a_number_too_stays() -> None:
    net, x = Parts(_read_as_a_number).eval(), torch.randn(4, 5)
    plan = graphprune.trace(net, x).plan(0.5)
    slim = plan.apply(net)
    assert graphprune.verify(net, slim, plan, x).passed
    assert slim.first == 8


def test_no_attribute_becomes_less_than_nothing() -> None:
    """A width that is worked out from a number that stays, and one that would have to be negative."""

    class Cache(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.leave, self.groups, self.width = nn.Linear(5, 12), nn.Linear(12, 3), 2, float(10)

        def forward(self, x: Tensor) -> Tensor:
            cache = torch.zeros(len(x), int(self.width) + self.groups)
            return self.leave(self.enter(x).tanh() + cache)

    net, x = Cache().eval(), torch.randn(4, 5)
    with pytest.warns(graphprune.NothingRemovedWarning):
        plan = graphprune.trace(net, x).plan(0.5)
    slim = plan.apply(net)
    assert slim.groups == 2
