"""Sums over channels that are not zero where they are removed are named."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune
from graphprune.graph.analysis import analyze
from graphprune.rules.zeros import keeps_zeros, zero_at_zero

aten = torch.ops.aten


class Net(nn.Module):
    """A program of the test's on 16 channels between two layers. [n, 5] -> [n, 3]"""

    def __init__(self, then: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 16), nn.Linear(16, 3)
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.leave(self.then(self.enter(x)))
        return y


def total(x: Tensor) -> Tensor:
    return x.sum(1, keepdim=True)


def across(y: Tensor) -> tuple[Tensor, Tensor]:
    """Channels along one dimension and along the next, in the shape of all pairs. [n, channels, channels] each"""
    first, second = torch.broadcast_tensors(y[:, :, None], y[:, None])
    return first, second


def repeated(y: Tensor) -> Tensor:
    return y[:, :, None].repeat(1, 1, y.shape[1]) + y[:, None].repeat(1, y.shape[1], 1)


def half_filled(y: Tensor) -> Tensor:
    found = torch.zeros_like(y)
    found[:2].fill_(1.0)
    return found


TABLE = torch.tensor([[0.5], [2.0]])

COUNTS: dict[str, Callable[[Tensor], Tensor]] = {
    "a summed squared distance": lambda y: y * F.mse_loss(y, torch.ones_like(y), reduction="sum"),
    "a summed distance": lambda y: y * F.smooth_l1_loss(torch.ones_like(y), y, reduction="sum"),
    "a summed robust distance": lambda y: y * F.huber_loss(y.sigmoid(), torch.zeros_like(y), reduction="sum"),
    "distances of their own": lambda y: y * F.mse_loss(y, torch.ones_like(y), reduction="none").sum(),
    "ones": lambda y: y / total(torch.ones_like(y)),
    "a running sum of ones": lambda y: y * torch.ones_like(y).cumsum(1),
    "finite values": lambda y: y * total(y.isfinite()),
    "a comparison": lambda y: y / total((y == y).float()),
    "not negative": lambda y: y * total(y >= 0),
    "a full tensor": lambda y: y * total(torch.full_like(y, 2.0)),
    "a choice": lambda y: y * total(torch.where(y > 0, 0, 1)),
    "an exponential": lambda y: y / total(y.exp()),
    "a norm": lambda y: y / F.softplus(y).norm(dim=1, keepdim=True),
    "the negation": lambda y: y * total(1 - y),
    "nonzero entries": lambda y: y * y.sigmoid().count_nonzero(1)[:, None],
    "a product": lambda y: (y.sigmoid() @ y.sigmoid().t()) @ y,
    "a distance": lambda y: torch.cdist(y.sigmoid(), y) @ y,
    "a difference": lambda y: y * torch.dist(y.sigmoid(), y),
    "filled later": lambda y: y * total(torch.empty_like(y).fill_(1.0)),
    "filled in part": lambda y: y * total(half_filled(y)),
    "differences between expanded channels": lambda y: y * torch.sub(*across(y)).abs().sum(2),
    "sums of repeated channels": lambda y: y * repeated(y).sum(2),
    "differences between channels": lambda y: y * (y[:, :, None] - y[:, None]).abs().sum(2),
    "greater channels": lambda y: y * (y[:, :, None] > y[:, None]).sum(2),
    "distances between channels": lambda y: y * torch.cdist(y[:, :, None], y[:, :, None]).sum(2),
    "channels times ones": lambda y: y * torch.outer(y[0], torch.ones_like(y[0])).sum(1),
    "centered": lambda y: y * total(F.layer_norm(y, (y.shape[1],)).abs()),
    "a class of each": lambda y: y * F.one_hot((y > 0).long(), 2).sum(1)[:, :1],
    "classes that are floats": lambda y: y * (1 + (y.sign()[..., None] == torch.arange(2.0)).sum(1)[:, :1]),
    "rows of an embedding": lambda y: y * F.embedding((y > 0).long(), TABLE).sum(1),
    "rows by an index": lambda y: y * TABLE[(y > 0).long()].sum(1),
    "rows that are selected": lambda y: y * TABLE.expand(2, y.shape[1]).gather(0, (y > 0).long()).sum(1, keepdim=True),
    "rows of an index at a place": lambda y: y * TABLE.T[:, (y > 0).long()].sum(2).T,
}

SUMS: dict[str, Callable[[Tensor], Tensor]] = {
    "a summed squared distance": lambda y: y * F.mse_loss(y, y.tanh(), reduction="sum"),
    "distances of their own": lambda y: y * F.huber_loss(y, y.tanh(), reduction="none").sum(),
    "positive": lambda y: y * total(y > 0),
    "a choice": lambda y: y * total(torch.where(y > 0, 1, 0)),
    "nonzero entries": lambda y: y * y.count_nonzero(1)[:, None],
    "a filled tensor": lambda y: y * total(y.masked_fill(y < 0, 1.0)),
    "zeros": lambda y: y + total(torch.full_like(y, 0.0)) + total(torch.ones_like(y).zero_()),
    "a norm": lambda y: F.normalize(F.gelu(y), dim=1),
    "a similarity": lambda y: y * F.cosine_similarity(y, y.relu(), dim=1)[:, None],
    "ones times channels": lambda y: y * total(torch.ones_like(y) * y),
    "a product with channels": lambda y: (y.sigmoid() @ y.t()) @ y,
    "the next layer": lambda y: y.sigmoid() + torch.ones_like(y),
    "products of channels": lambda y: y * (y[:, :, None] * y[:, None]).sum(2),
    "an outer product": lambda y: y * torch.outer(y[0], y[0]).sum(1),
    "a lookup in channels": lambda y: y * y[torch.tensor([0, 1, 0, 2])].sum(1, keepdim=True),
    "channels that are gathered": lambda y: y * y.gather(0, (y > 0).long()).sum(1, keepdim=True),
    "channels that are equal to one": lambda y: y * total(y.sign() == 1),
    "heads that are normalized": lambda y: (y @ F.normalize(y, dim=1).t()) @ y,
}


def with_zeros(model: nn.Module, plan: graphprune.Plan) -> nn.Module:
    """A copy in float64 whose removed entries are zero."""
    zeroed = copy.deepcopy(model).double()
    with torch.no_grad():
        for name, parameter in zeroed.named_parameters():
            parameter[~plan.mask(name)] = 0
    return zeroed


def apart(then: Callable[[Tensor], Tensor]) -> tuple[graphprune.Verification, float]:
    """What verify says of a half of the channels, and how far the slim model is from one with zeros."""
    torch.manual_seed(0)
    model, x = Net(then).eval(), torch.randn(4, 5)
    plan = graphprune.trace(model, x).plan(0.5, importance="random")
    slim = plan.apply(model)
    assert slim.enter.out_features == 8
    with torch.no_grad():
        expected, found = with_zeros(model, plan)(x.double()), copy.deepcopy(slim).double()(x.double())
    return graphprune.verify(model, slim, plan, x), float((expected - found).abs().max() / expected.abs().max())


@pytest.mark.parametrize("name", COUNTS)
def test_a_count_of_channels_is_named(name: str) -> None:
    check, difference = apart(COUNTS[name])
    assert check.passed
    assert difference > 1e-3
    assert check.inexact


@pytest.mark.parametrize("name", SUMS)
def test_a_sum_of_what_is_zero_is_exact(name: str) -> None:
    check, difference = apart(SUMS[name])
    assert check.passed
    assert difference < 1e-10
    assert not check.inexact


def test_the_operation_is_named() -> None:
    check, _ = apart(COUNTS["ones"])
    assert check.inexact == ("sum adds up entries that are not zero in removed channels (sum_1)",)


@pytest.mark.parametrize(
    ("then", "zero"), [(torch.tanh, True), (torch.cos, False), (lambda y: y * 2.0, True), (lambda y: y + 2.0, False)]
)
def test_entrywise_operations_of_zero(then: Callable[[Tensor], Tensor], zero: bool) -> None:
    graph = analyze(Net(then).eval(), torch.randn(4, 5))
    (call,) = [n for n in graph.labeling.nodes if n.op == "call_function" and n.name in ("tanh", "cos", "mul", "add")]
    assert zero_at_zero(call, [True]) is zero
    assert not zero_at_zero(call, [False])


def test_operations_that_keep_zeros() -> None:
    kept = [aten.view.default, aten.cat.default, aten.avg_pool2d.default, aten.index.Tensor]
    assert all(map(keeps_zeros, kept))
    assert not any(map(keeps_zeros, [aten._softmax.default, aten.logsumexp.default, aten.ones.default]))


class LinearAttention(nn.Module):
    """Four heads whose features are positive. [n, t, 8] -> [n, t, 3]"""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.leave = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 3)
        self.heads = 4

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).view(*x.shape[:2], self.heads, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        q, k = F.elu(q) + 1, F.elu(k) + 1
        found = q @ (k.transpose(-1, -2) @ v) / (q @ k.sum(-2)[..., None])
        y: Tensor = self.leave(found.transpose(1, 2).flatten(2))
        return y


@pytest.mark.parametrize(("options", "counts"), [({"heads": 0.5}, False), ({"head_width": 0.5}, True)])
def test_a_sum_within_heads_counts_their_columns_only(options: dict[str, float], counts: bool) -> None:
    model, x = LinearAttention().eval(), torch.randn(2, 5, 8)
    plan = graphprune.trace(model, x).plan(**options)
    slim = plan.apply(model)
    assert slim.q.out_features == 8
    check = graphprune.verify(model, slim, plan, x)
    assert check.passed
    assert bool(check.inexact) is counts
