"""Running operations over shuffled channels need the order that the channels had."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphprune as gp

RUNNING: dict[str, Callable[[Tensor], Tensor]] = {
    "cumsum": lambda h: h.cumsum(1),
    "cumprod": lambda h: h.cumprod(1),
    "logcumsumexp": lambda h: h.logcumsumexp(1),
    "cummax": lambda h: h.cummax(1).values,
    "cummin": lambda h: h.cummin(1).values,
}


class Shuffled(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 12, 1)
        self.g = nn.Conv2d(12, 12, 1, groups=3)
        self.b = nn.Conv2d(12, 5, 1)
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        h = F.channel_shuffle(self.g(self.a(x)), 3).sigmoid()
        y: Tensor = self.b(RUNNING[self.name](h))
        return y


@pytest.mark.parametrize("name", RUNNING)
def test_running_operations_keep_the_order_of_shuffled_channels(name: str) -> None:
    torch.manual_seed(0)
    model, x = Shuffled(name).eval(), torch.randn(2, 3, 4, 4)
    plan = gp.trace(model, x).plan(0.34)
    assert gp.verify(model, plan.apply(model), plan, x).passed
