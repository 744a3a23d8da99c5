"""Caches among the example inputs: every run finds them as they were given, and so does the user afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune


class Memory:
    """What earlier calls gave, in a list that grows or in a table that is written to."""

    def __init__(self, grows: bool, width: int) -> None:
        self.grows, self.seen, self.count = grows, [] if grows else [torch.zeros(2, 6, width)], 0

    def update(self, new: Tensor) -> Tensor:
        start, self.count = self.count, self.count + new.shape[1]
        if self.grows:
            self.seen.append(new)
            return torch.cat(self.seen, 1)
        self.seen[0].index_copy_(1, torch.arange(start, self.count), new)
        return self.seen[0]


class Remembering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.inner, self.leave = nn.Linear(5, 8), nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor, memory: Memory) -> Any:
        places = torch.arange(x.shape[1]) + memory.count  # a number of the program
        h = memory.update(self.enter(x)).mean(1, keepdim=True) + places[:, None]
        return self.leave(self.inner(h).relu())


@pytest.mark.parametrize("grows", [True, False])
@pytest.mark.parametrize("filled", [True, False])
def test_a_cache_that_is_given_stays_as_it_is(grows: bool, filled: bool) -> None:
    torch.manual_seed(0)
    model, x, memory = Remembering().eval(), torch.randn(2, 3, 5), Memory(grows, 8)
    if filled:
        memory.update(torch.randn(2, 3, 8))
    before, count = [t.clone() for t in memory.seen], memory.count
    inputs = {"x": x, "memory": memory}
    graph = graphprune.trace(model, inputs)
    plan = graph.plan(mlp=0.5)
    slim = plan.apply(model)
    assert slim.inner.out_features == 8
    assert graphprune.verify(model, slim, plan, inputs).passed
    graphprune.measure(model, inputs)
    graph.plan(mlp=0.5, importance="wanda", calibration=[inputs, inputs])
    assert memory.count == count
    assert len(memory.seen) == len(before)
    assert all(torch.equal(now, then) for now, then in zip(memory.seen, before, strict=True))
    assert not any(now.requires_grad for now in memory.seen)
