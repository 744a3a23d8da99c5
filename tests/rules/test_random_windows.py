"""Fractional max pooling: each channel has windows of its own, drawn at random."""

import pytest
import torch
from torch import Tensor, nn

import graphprune


class Pooled(nn.Module):
    def __init__(self, dims: int, batched: bool) -> None:
        super().__init__()
        conv, pool = (nn.Conv2d, nn.FractionalMaxPool2d) if dims == 2 else (nn.Conv3d, nn.FractionalMaxPool3d)
        self.first, self.last, self.batched = conv(3, 8, 3, padding=1), conv(8, 4, 1), batched
        self.pool = pool(2, output_size=3, return_indices=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        pooled, _ = self.pool(h) if self.batched else self.pool(h[0])
        out: Tensor = self.last(pooled)
        return out


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("batched", [True, False])
def test_channels_keep_their_windows(dims: int, batched: bool) -> None:
    model, x = Pooled(dims, batched).eval(), torch.randn(2 if batched else 1, 3, *[7] * dims)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert slim.first.out_channels == 4
    assert graphprune.verify(model, slim, plan, x).passed
