"""Tensors without entries: a slice of nothing, no repetition."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphprune


class Net(nn.Module):
    """Two layers with a function between them."""

    def __init__(self, between: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.scale = nn.Linear(3, 8), nn.Linear(8, 4), nn.Parameter(torch.randn(8))
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self, self.first(x) * self.scale))


BETWEEN: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "repeated": lambda net, y: y + net.scale.repeat(0).sum(),
    "rows repeated": lambda net, y: y + y.repeat(0, 1).sum(0),
    "sliced": lambda net, y: y + y[:, :0].sum(1, keepdim=True),
    "product": lambda net, y: y * y[:, :0].prod(1, keepdim=True),
    "norm": lambda net, y: y + y[:, :0].norm(),
    "put together": lambda net, y: torch.cat([y[:, :0], y], 1),
}


@pytest.mark.parametrize("name", BETWEEN)
def test_channels_beside_nothing_go(name: str) -> None:
    net, x = Net(BETWEEN[name]).eval(), torch.randn(2, 3)
    plan = graphprune.trace(net, x).plan(0.5)
    slim = plan.apply(net)
    assert slim.first.out_features == 4
    assert graphprune.verify(net, slim, plan, x).passed
