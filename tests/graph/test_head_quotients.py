"""A width that a program only divides by the heads, to scale their scores, goes in step with the heads."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune

X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))


class Attention(nn.Module):
    """Four heads of 8 channels on a residual stream of 32, and how their scores are scaled and their rows are cut."""

    def __init__(self, cut: Callable[[Any, Tensor], Tensor], scale: Callable[[Any], float]) -> None:
        super().__init__()
        self.width, self.heads, self.cut, self.scale_of = 32, 4, cut, scale
        self.enter, self.qkv = nn.Linear(8, 32), nn.Linear(32, 96)
        self.out, self.head = nn.Linear(32, 32), nn.Linear(32, 4)

    @cached_property
    def scale(self) -> float:
        return float((self.width // self.heads) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        q, k, v = (self.cut(self, part).transpose(1, 2) for part in self.qkv(x).chunk(3, 2))
        scores = (q @ k.mT * self.scale_of(self)).softmax(-1)
        return self.head(x + self.out((scores @ v).transpose(1, 2).flatten(2)))


def _by_quotient(own: Any, x: Tensor) -> Tensor:
    return x.view(*x.shape[:2], own.heads, x.shape[2] // own.heads)


def _by_rest(own: Any, x: Tensor) -> Tensor:
    return x.unflatten(2, (own.heads, -1))


@pytest.mark.parametrize("ran", [False, True])
@pytest.mark.parametrize("cut", [_by_quotient, _by_rest])
@pytest.mark.parametrize(
    "scale",
    [
        lambda own: (own.width // own.heads) ** -0.5,
        lambda own: (own.width / own.heads) ** -0.5,
        lambda own: own.scale,
    ],
)
def test_heads_go_with_the_width(cut: Callable[..., Tensor], scale: Callable[[Any], float], ran: bool) -> None:
    torch.manual_seed(0)
    model = Attention(cut, scale).eval()
    if ran:
        model(X)
    plan = graphprune.trace(model, X).plan(0.5)
    slim = plan.apply(model)
    assert (slim.heads, slim.enter.out_features, slim.qkv.out_features) == (2, 16, 48)
    assert slim.width // slim.heads == 8 or ran
    assert graphprune.verify(model, slim, plan, X).passed


def test_a_number_of_something_else_stays() -> None:
    """Divided by the heads it is 16, and they have 8 channels each."""
    model = Attention(_by_rest, lambda own: (own.width // own.heads) ** -0.5).eval()
    model.width = 64
    slim = graphprune.trace(model, X).plan(0.5).apply(model)
    assert (slim.heads, slim.width) == (4, 64)
