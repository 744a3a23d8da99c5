"""The only head of an attention cannot go, so that it becomes narrower."""

from __future__ import annotations

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
    assert any("used as a number" in c.why for c in plan.choices)
