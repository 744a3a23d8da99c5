"""Positions from the end, copies, padding and places: what is pruned, and what is held."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune

X = torch.randn(2, 3, 8, 8)


class Net(nn.Module):
    """Two convolutions with a function between them that makes ``width`` of 16 channels."""

    def __init__(self, between: Callable[[Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(width, 4, 3, padding=1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self.a(x).relu()))


def _unpooled(x: Tensor) -> Tensor:
    small, places = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(small * 2, places, 2)


def _identity(x: Tensor) -> Tensor:
    return torch.einsum("bchw,cd->bdhw", x, torch.eye(x.shape[1]))


CASES: dict[str, tuple[Callable[[Tensor], Tensor], int, int]] = {
    "narrow from the end": (lambda x: torch.cat([x.narrow(1, -4, 4), x[:, :-4]], 1), 16, 8),
    "slice from the end": (lambda x: torch.cat([x[:, -8:], x[:, :-8]], 1), 16, 9),
    "all but the end": (lambda x: torch.cat([x[:, :-8], x[:, -8:]], 1), 16, 9),
    "half from the end": (
        lambda x: torch.cat((*x.split(x.shape[1] // 2, 1)[::-1], x[:, -(x.shape[1] // 2) :]), 1),
        24,
        8,
    ),
    "circular over channels": (lambda x: F.pad(x[:, None], (0, 0, 0, 0, 2, 2), mode="circular")[:, 0], 20, 10),
    "circular over space": (lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"), 16, 8),
    "zeros for channels": (lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)), 24, 8),
    "neighbors": (lambda x: x.repeat_interleave(2, 1), 32, 8),
    "unpooled": (_unpooled, 16, 8),
    "identity": (_identity, 16, 8),
}


@pytest.mark.parametrize("name", CASES)
def test_the_slim_model_is_right(name: str) -> None:
    """``left`` of the 16 channels are left at a ratio of a half: those that a literal holds all stay."""
    between, width, left = CASES[name]
    net = Net(between, width).eval()
    graph = graphprune.trace(net, X)
    plan = graph.plan(0.5)
    slim = plan.apply(net)
    assert slim.a.out_channels == left
    assert graphprune.verify(net, slim, plan, X).passed


@pytest.mark.parametrize("name", ["narrow from the end", "slice from the end", "circular over channels"])
def test_literals_are_named(name: str) -> None:
    between, width, _ = CASES[name]
    frozen = {str(f.axis): f.reason for f in graphprune.trace(Net(between, width), X).frozen}
    assert "is a literal" in frozen["a.weight[0]"]
