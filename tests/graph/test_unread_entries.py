"""Rows of a table that the example is too short to read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.graph.unread import UNREAD


class Positions(nn.Module):
    """A learned position for each of 64 places, of which an input takes as many as it has."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Parameter(torch.randn(64, 16))
        self.enter, self.leave = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave((self.enter(x) + self.positions[: x.shape[1]]).relu())


class CausalMask(nn.Module):
    """A mask for 64 places beside the weights."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(1, 64, 64).tril())
        self.enter, self.leave = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, n = self.enter(x), x.shape[1]
        scores = (h @ h.mT).masked_fill(self.mask[:, :n, :n] == 0, -1e9)
        return self.leave(scores.softmax(-1) @ h)


@pytest.mark.parametrize("make", [Positions, CausalMask])
def test_what_a_longer_input_reads_stays(make: type[nn.Module]) -> None:
    net, x = make().eval(), torch.randn(2, 12, 6)
    plan = graphprune.trace(net, x).plan(0.5)
    slim = plan.apply(net)
    assert slim.enter.out_features == 8
    assert graphprune.verify(net, slim, plan, x).passed
    longer = torch.randn(2, 60, 6)
    assert slim(longer).shape == (2, 60, 3)
    assert graphprune.verify(net, slim, plan, longer).passed


class Halves(nn.Module):
    """A weight of which one half or both are read, each by itself."""

    def __init__(self, halves: int) -> None:
        super().__init__()
        self.weight, self.leave, self.halves = nn.Parameter(torch.randn(16, 6)), nn.Linear(8, 3), halves

    def forward(self, x: Tensor) -> Tensor:
        read = self.weight.chunk(2)[: self.halves]
        return self.leave(sum(nn.functional.linear(x, half) for half in read))


@pytest.mark.parametrize(("halves", "unread"), [(1, 1), (2, 0)])
def test_a_half_that_something_reads_is_not_called_unread(halves: int, unread: int) -> None:
    graph = graphprune.trace(Halves(halves).eval(), torch.randn(2, 6))
    assert sum(UNREAD in str(item) for item in graph.frozen) == unread
