"""Split attention: the branches of a grid of channels are summed, so that their columns go together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graphprune


class SplitAttention(nn.Module):
    """Two branches of eight channels, weighted by a softmax over branches and summed."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(3, 16, 1), nn.Conv2d(8, 5, 1)
        self.squeeze, self.excite = nn.Linear(8, 4), nn.Linear(4, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        n, c, h, w = y.shape
        y = y.reshape(n, 2, c // 2, h, w)
        weights = self.excite(self.squeeze(y.sum(1).mean((2, 3))).relu()).view(n, 2, -1).softmax(1)
        return self.leave((y * weights[..., None, None]).sum(1))


@pytest.mark.parametrize("options", [{}, {"head_width": 0.5}], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_split_attention_is_pruned_right(seed: int, options: dict[str, float]) -> None:
    torch.manual_seed(seed)
    net, x = SplitAttention().eval(), torch.randn(2, 3, 4, 4)
    plan = graphprune.trace(net, x).plan(0.5, importance="random", seed=seed, **options)
    slim = plan.apply(net)
    assert graphprune.verify(net, slim, plan, x).passed
    assert slim.enter.out_channels < 16


class SelectiveKernels(nn.Module):
    """Three convolutions whose results are weighted by a softmax over them and summed."""

    def __init__(self) -> None:
        super().__init__()
        self.paths = nn.ModuleList(nn.Conv2d(3, 8, 1) for _ in range(3))
        self.squeeze, self.excite, self.leave = nn.Linear(8, 4), nn.Linear(4, 24), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        u = torch.stack([path(x) for path in self.paths], 1)
        s = self.excite(self.squeeze(u.sum(1).mean((2, 3))).relu())
        return self.leave((u * s.view(len(x), 3, -1).softmax(1)[..., None, None]).sum(1))


def test_channels_of_branches_that_only_go_together_are_pruned() -> None:
    """The branches are one unit that can never go, so that nothing is gained by keeping their width."""
    net, x = SelectiveKernels().eval(), torch.randn(2, 3, 4, 4)
    plan = graphprune.trace(net, x).plan(0.5)
    slim = plan.apply(net)
    assert graphprune.verify(net, slim, plan, x).passed
    assert [path.out_channels for path in slim.paths] == [4, 4, 4]
    assert slim.excite.out_features == 12
