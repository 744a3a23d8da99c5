"""Channels that a view has put into the batch beside others: whole rows go, and whole channels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphprune


class Sources(nn.Module):
    """Three sources of sixteen channels, seen as a batch of maps, as separation networks have them. [n, 5, t]"""

    def __init__(self, inner: nn.Module, inside: bool = False) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv1d(5, 48, 1), nn.Conv1d(4, 2, 1)
        self.inner, self.inside, self.sources = inner, inside, 3

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        if self.inside:  # neighbors are sources
            y = y.view(y.shape[0], -1, self.sources, y.shape[2]).transpose(1, 2)
        y = self.inner(y.reshape(y.shape[0] * self.sources, -1, y.shape[-1])).relu()
        result: Tensor = self.leave(y.view(x.shape[0], self.sources, -1, y.shape[2]).sum(1))
        return result


INNER = {
    "convolution": lambda: nn.Conv1d(16, 4, 3, padding=1),
    "transposed": lambda: nn.ConvTranspose1d(16, 4, 3, padding=1),
    "depthwise": lambda: nn.Sequential(nn.Conv1d(16, 16, 3, groups=16, padding=1), nn.Conv1d(16, 4, 1)),
    "batch norm": lambda: nn.Sequential(nn.BatchNorm1d(16), nn.Conv1d(16, 4, 1)),
    "group norm": lambda: nn.Sequential(nn.GroupNorm(4, 16), nn.Conv1d(16, 4, 1)),
}


CHOICES = [(False, {}), (False, {"head_width": 0.5}), (True, {})]
"""Are neighbors sources; and what is asked beside a ratio: whole sources are rows, or columns, or stay."""


@pytest.mark.parametrize(("inside", "asked"), CHOICES)
@pytest.mark.parametrize("name", INNER)
def test_rows_or_channels_go(name: str, inside: bool, asked: dict[str, float]) -> None:
    torch.manual_seed(0)
    model, x = Sources(INNER[name](), inside).eval(), torch.randn(2, 5, 7)
    plan = graphprune.trace(model, x).plan(0.5, **asked)
    slim = plan.apply(model)
    assert slim.enter.out_channels < 48
    assert graphprune.verify(model, slim, plan, x).passed
    assert graphprune.verify(model, slim, plan, torch.randn(3, 5, 9)).passed


class Votes(nn.Module):
    """Sixteen capsules of width 4 vote for 3 classes: the product runs over a batch of inputs, classes and capsules."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.width = nn.Linear(5, 16), nn.Parameter(torch.randn(4))
        self.votes = nn.Parameter(torch.randn(3, 16, 6, 4))

    def forward(self, x: Tensor) -> Tensor:
        capsules = self.enter(x).relu()[..., None] * self.width
        votes = self.votes @ capsules[:, None, :, :, None]
        return votes.sum(2).square().sum((2, 3))


@pytest.mark.parametrize("inputs", [1, 2, 16])
def test_channels_that_a_product_has_in_its_batch_go(inputs: int) -> None:
    torch.manual_seed(0)
    model, x = Votes().eval(), torch.randn(inputs, 5)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert slim.votes.shape == (3, 8, 3, 2)
    assert graphprune.verify(model, slim, plan, torch.randn(4, 5)).passed


class Pooled(nn.Module):
    """A learned query, copied for each sample, pools what nothing reads beside the logits. [n, t, 5]"""

    def __init__(self, copies: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.copies, self.query = copies, nn.Parameter(torch.randn(1, 1, 24))
        self.enter, self.leave = nn.Linear(5, 24), nn.Linear(24, 3)
        self.attention = nn.MultiheadAttention(24, 4, batch_first=True)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        h = self.enter(x)
        return {"logits": self.leave(h), "pooled": self.attention(self.copies(self.query, h), h, h)[0]}


COPIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "repeat": lambda query, h: query.repeat(h.shape[0], 1, 1),
    "expand": lambda query, h: query.expand(h.size(0), -1, -1),
    "expand_as": lambda query, h: query.expand_as(h[:, :1]),
}


@pytest.mark.parametrize("name", COPIES)
def test_batches_of_one_and_of_several_have_the_same_groups(name: str) -> None:
    torch.manual_seed(0)
    model, x = Pooled(COPIES[name]).eval(), torch.randn(2, 6, 5)
    graphs = [graphprune.trace(model, batch, outputs=lambda out: out["logits"]) for batch in (x, x[:1])]
    assert [(g.name, g.units) for g in graphs[0].groups] == [(g.name, g.units) for g in graphs[1].groups]
    for graph, other in zip(graphs, (x[:1], torch.cat([x, x])), strict=True):
        plan = graph.plan(0.5)
        slim = plan.apply(model)
        assert slim.attention.num_heads == 2
        assert graphprune.verify(model, slim, plan, other, outputs=lambda out: out["logits"]).passed
