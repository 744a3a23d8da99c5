"""Modules that raise, where the program catches it: all else belongs to the module that runs it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graphprune

X = torch.randn(2, 6)


class Unavailable(nn.Module):
    """Raises in itself, or within a module of its own."""

    def __init__(self, kind: type[BaseException], nested: bool) -> None:
        super().__init__()
        self.kind, self.linear = kind, nn.Linear(16, 16)
        self.inner = Unavailable(kind, nested=False) if nested else None

    def forward(self, x: Tensor) -> Tensor:
        if self.inner is not None:
            return self.inner(x)
        raise self.kind("no kernel for this device")


class Block(nn.Module):
    def __init__(self, kind: type[BaseException], nested: bool) -> None:
        super().__init__()
        self.kind, self.fast = kind, Unavailable(kind, nested)
        self.slow = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        try:
            h = self.fast(x)
        except self.kind:
            h = self.slow(x)
        return x + h


def _net(kind: type[BaseException] = NotImplementedError, nested: bool = False) -> nn.Module:
    blocks = (Block(kind, nested) for _ in range(4))
    return nn.Sequential(nn.Linear(6, 16), *blocks, nn.Linear(16, 3)).eval()


@pytest.mark.parametrize("nested", [False, True])
def test_blocks_whose_fast_way_raises_are_found_under_their_names(nested: bool) -> None:
    model = _net(nested=nested)
    graph = graphprune.trace(model, X)
    assert [block.path for block in graph.blocks] == ["1", "2", "3", "4"]
    sums = [node.meta["module"] for node in graph.trace.graph.nodes if str(node.target).startswith("aten.add.")]
    assert sums == ["1", "2", "3", "4"]


@pytest.mark.filterwarnings("ignore::graphprune.NothingRemovedWarning", "ignore::graphprune.UnreachedWarning")
def test_blocks_whose_fast_way_raises_can_be_left_out() -> None:
    model = _net()
    plan = graphprune.trace(model, X).plan(depth=0.5)
    assert len(plan.skipped) == 2
    assert graphprune.verify(model, plan.apply(model), plan, X).passed


def test_what_torch_tells_nobody_of_is_over_with_the_module_that_catches_it() -> None:
    calls = graphprune.trace(_net(KeyboardInterrupt), X).trace.calls
    assert [call.path for call in calls if "." not in call.path] == ["0", "1", "2", "3", "4", "5", ""]


class Stopped(Exception):
    """A hook has what it wants."""


class Features(nn.Module):
    """A body that a hook stops in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.Linear(12, 3))
        self.head = nn.Sequential(nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 5))
        self.found: list[Tensor] = []
        self.body[2].register_forward_hook(self._stop)

    def _stop(self, module: nn.Module, args: object, output: Tensor) -> None:
        self.found.append(output)
        raise Stopped

    def forward(self, x: Tensor) -> Tensor:
        try:
            self.body(x)
        except Stopped:
            return self.head(self.found.pop())
        return x


def test_a_module_that_a_hook_stops_gives_nothing() -> None:
    calls = graphprune.trace(Features().eval(), X).trace.calls
    assert [call.path for call in calls] == ["body.0", "body.1", "body.2", "head.0", "head.1", "head.2", "head", ""]
