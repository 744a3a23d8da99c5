"""The only head of an attention cannot go, so that it becomes narrower; and so do branches and their kernels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphprune


class GraphAttention(nn.Module):
    """Attention along the edges of a graph, written as graph libraries do."""

    def __init__(self, heads: int, width: int, scale: float | None = 0.25) -> None:
        super().__init__()
        self.heads, self.width, self.scale = heads, width, scale
        self.q, self.k, self.v = (nn.Linear(7, heads * width) for _ in range(3))
        self.skip, self.leave = nn.Linear(7, heads * width), nn.Linear(heads * width, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges
        q, k, v = (layer(x).view(-1, self.heads, self.width) for layer in (self.q, self.k, self.v))
        scale = self.width**-0.5 if self.scale is None else self.scale
        score = (q.index_select(0, target) * k.index_select(0, source)).sum(-1).mul(scale).exp()
        total = x.new_zeros(len(x), self.heads).index_add(0, target, score).index_select(0, target)
        message = v.index_select(0, source) * (score / total)[..., None]
        out = torch.zeros_like(v).index_add(0, target, message).flatten(1)
        return self.leave(out + self.skip(x))


def halved(net: nn.Module) -> tuple[nn.Module, graphprune.Plan]:
    torch.manual_seed(0)
    example = (torch.randn(9, 7), torch.randint(9, (2, 20)))
    plan = graphprune.trace(net.eval(), example).plan(0.5, importance="random")
    slim = plan.apply(net)
    assert graphprune.verify(net, slim, plan, example).passed
    return slim, plan


@pytest.mark.parametrize(("heads", "left"), [(1, (1, 8)), (2, (1, 16))])
def test_one_head_becomes_narrower_and_two_become_one(heads: int, left: tuple[int, int]) -> None:
    slim, _ = halved(GraphAttention(heads, 16))
    assert (slim.heads, slim.width) == left
    assert slim.q.out_features == left[0] * left[1]


@pytest.mark.filterwarnings("ignore::graphprune.errors.NothingRemovedWarning")
def test_a_width_that_scales_the_scores_stays() -> None:
    slim, plan = halved(GraphAttention(1, 16, scale=None))
    assert slim.q.out_features == 16
    assert any("the number 0.25" in c.why for c in plan.choices)


class SelectiveKernel(nn.Module):
    """Two branches weighted by a softmax over them: the weights are one row for each branch."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(3, 8, size, padding=size // 2) for size in (3, 5))
        self.squeeze, self.excite, self.leave = nn.Linear(8, 4), nn.Linear(4, 16), nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.stack([branch(x) for branch in self.branches], 1)
        weights = self.excite(self.squeeze(y.sum(1).mean((2, 3))).relu())
        weights = weights.view(len(x), 2, y.shape[2], 1, 1).softmax(1)
        return self.leave((y * weights).sum(1))


class Involution(nn.Module):
    """A kernel for every place and group of channels, made of the input."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.enter, self.kernel, self.leave = nn.Conv2d(3, 8, 1), nn.Conv2d(8, groups * 9, 1), nn.Conv2d(8, 5, 1)
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        n, c, h, w = y.shape
        kernel = self.kernel(y).view(n, self.groups, 1, 9, h, w)
        windows = nn.functional.unfold(y, 3, padding=1).view(n, self.groups, c // self.groups, 9, h, w)
        return self.leave((kernel * windows).sum(3).view(n, c, h, w))


@pytest.mark.parametrize("make", [SelectiveKernel, lambda: Involution(1), lambda: Involution(2), lambda: Involution(8)])
def test_branches_and_groups_become_narrower(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    net, x = make().eval(), torch.randn(2, 3, 4, 4)
    plan = graphprune.trace(net, x).plan(0.5, importance="random")
    slim = plan.apply(net)
    assert graphprune.verify(net, slim, plan, x).passed
    assert slim.leave.in_channels == 4
