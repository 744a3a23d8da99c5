"""Sizes of rows and of channels within them that are divided by each other: the channels go, the rows stay."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graphprune


class GraphConvolution(nn.Module):
    """One kernel for each of several adjacency matrices. [n, 2, t, 9] -> [n, 4, t, 9]"""

    def __init__(self, kernels: int = 3) -> None:
        super().__init__()
        self.kernels, self.enter, self.leave = kernels, nn.Conv2d(2, 16 * kernels, 1), nn.Conv2d(16, 4, 1)
        self.register_buffer("adjacency", torch.rand(kernels, 9, 9))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        n, channels, t, v = x.size()
        x = x.view(n, self.kernels, channels // self.kernels, t, v)
        found: Tensor = self.leave(torch.einsum("nkctv,kvw->nctw", x, self.adjacency).relu())
        return found


class Shuffled(nn.Module):
    """Two grouped convolutions, channels dealt from one to the other, beside a residual sum. [n, 24, h, w]"""

    def __init__(self, groups: int = 2) -> None:
        super().__init__()
        self.groups = groups
        self.enter, self.leave = nn.Conv2d(24, 24, 1, groups=groups), nn.Conv2d(24, 24, 3, padding=1, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x).relu()
        n, channels, h, w = y.size()
        y = y.view(n, self.groups, channels // self.groups, h, w).transpose(1, 2).reshape(n, channels, h, w)
        return x + self.leave(y)


def shuffled() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 24, 1), nn.ReLU(), Shuffled(), Shuffled(), nn.Conv2d(24, 4, 1))


@pytest.mark.parametrize(
    ("model", "x", "layer"),
    [(GraphConvolution(), torch.randn(2, 2, 12, 9), "enter"), (shuffled(), torch.randn(2, 3, 6, 6), "0")],
)
def test_half_of_the_channels_of_every_row_go(model: nn.Module, x: Tensor, layer: str) -> None:
    model.eval()
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert slim.get_submodule(layer).out_channels == 24 // (1 if layer == "enter" else 2)
    assert graphprune.verify(model, slim, plan, x).passed
