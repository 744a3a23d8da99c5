"""Rows of a table that the example is too short to read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.graph.unread import UNREAD, WRITTEN


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


@pytest.mark.parametrize(("halves", "unread"), [(1, 2), (2, 0)])
def test_a_half_that_something_reads_is_not_called_unread(halves: int, unread: int) -> None:
    graph = graphprune.trace(Halves(halves).eval(), torch.randn(2, 6))
    assert sum(UNREAD in str(item) for item in graph.frozen) == unread


class Queue(nn.Module):
    """Earlier features, of which training writes as many as the batch has. [n, 6] -> [n, 3]"""

    queue: Tensor
    pointer: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("queue", torch.randn(16, 12))
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))
        self.enter, self.leave = nn.Linear(6, 16), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        keys = self.enter(x).tanh()
        scores = keys @ self.queue.clone()
        if self.training:
            place, rows = int(self.pointer), min(len(keys), 12 - int(self.pointer))
            self.queue[:, place : place + rows] = keys[:rows].detach().T
            self.pointer[0] = (place + rows) % 12
        return self.leave(scores.relu())


class Remembered(nn.Module):
    """What the input has not of a table's length comes from the table. [n, rows, 6] -> [n, rows, 3]"""

    def __init__(self, written: bool) -> None:
        super().__init__()
        self.table, self.written = nn.Parameter(torch.randn(24, 16)), written
        self.enter, self.leave = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, rows = self.enter(x), x.shape[1]
        if self.written:
            keys = self.table.clone()
            keys[:rows] = h.mean(0)
        else:
            keys = torch.cat([h.mean(0), self.table[rows:]])
        return self.leave((h @ keys.T).softmax(-1) @ keys)


def test_a_queue_of_which_training_writes_a_part_keeps_its_length() -> None:
    net, x = Queue().eval(), torch.randn(2, 6)
    graph = graphprune.trace(net, x)
    assert "queue[1]" in [str(f.axis) for f in graph.frozen if WRITTEN in str(f)]
    slim = graph.plan(0.5).apply(net).train()
    assert isinstance(slim, Queue) and slim.queue.shape == (8, 12)
    for n in (5, 5, 5):
        slim(torch.randn(n, 6))
    assert int(slim.pointer) == 0


@pytest.mark.parametrize("written", [False, True])
def test_a_table_that_is_cut_where_the_input_ends_keeps_its_length(written: bool) -> None:
    net = Remembered(written).eval()
    plan = graphprune.trace(net, torch.randn(2, 4, 6)).plan(0.5)
    slim = plan.apply(net)
    assert isinstance(slim, Remembered) and slim.table.shape == (24, 8)
    assert all(graphprune.verify(net, slim, plan, torch.randn(3, rows, 6)).passed for rows in (4, 9))
