"""Layers that forward runs in other threads are not traced: what they take stays, and reasons say so."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn

import graphprune

X = torch.randn(4, 6)


class Pool(nn.Module):
    """Three layers in a pool of threads, between layers that forward runs itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 12), nn.Linear(20, 3)
        self.middle = nn.ModuleList(nn.Linear(12, 12) for _ in range(3))
        self.next = nn.Linear(12, 20)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda layer: layer(y), self.middle))
        return self.last(self.next(sum(found)).relu())


@pytest.mark.filterwarnings("ignore::graphprune.UnreachedWarning")
def test_layers_in_other_threads_are_named() -> None:
    model = Pool().eval()
    graph = graphprune.trace(model, X)
    reasons = {str(frozen.axis): frozen.reason for frozen in graph.frozen}
    assert reasons["first.weight[0]"].startswith("taken by middle.0 in another thread, which is not traced, at ")
    assert "middle.0 ran in another thread; only forward's own thread is traced" in reasons["middle.1.weight"]
    plan = graph.plan(0.5)
    slim = plan.apply(model)
    assert slim.next.out_features == 10
    assert graphprune.verify(model, slim, plan, X).passed


class TrainedPool(Pool):
    """Looks at values; in training another thread takes what is made only then, and then training fails."""

    def forward(self, x: Tensor) -> Tensor:
        if float(x.sum()) > -1e9 and self.training:
            with ThreadPoolExecutor(1) as pool:
                pool.submit(self.middle[0], self.first(x).relu()).result()
            raise RuntimeError("no data")
        return self.last(self.next(self.first(x)))


def test_what_a_failed_training_run_hands_to_other_threads_is_forgotten() -> None:
    model = TrainedPool().eval()
    graph = graphprune.trace(model, X)
    handed = [node for _, nodes in graph.trace.elsewhere for node in nodes]
    assert handed and not graph.labeling.values.keys() & handed
    assert {str(axis) for group in graph.groups for axis in group.axes} >= {"first.weight[0]", "next.weight[0]"}
