"""Buffers that put channels in another order follow what is removed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune

pytestmark = pytest.mark.filterwarnings("ignore::graphprune.UnreachedWarning")  # not all programs use all there is

ORDER = torch.tensor([5, 0, 11, 3, 15, 8, 1, 14, 6, 2, 9, 12, 4, 13, 7, 10])
X = torch.randn(2, 3, 6, 6)


class Net(nn.Module):
    """Two convolutions with a function between them that is given an order of 16 channels, and its inverse."""

    def __init__(self, between: Callable[[Net, Tensor], Tensor], width: int = 16) -> None:
        super().__init__()
        self.a, self.c, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 1, groups=2), nn.Conv2d(width, 4, 3)
        self.between = between
        self.register_buffer("order", ORDER.clone())
        self.register_buffer("back", ORDER.argsort().int(), persistent=False)
        self.register_buffer("twice", torch.cat([ORDER, ORDER[:8]]))
        self.register_buffer("part", ORDER[:8].clone())
        self.register_buffer("swap", torch.arange(16).view(2, 8).flip(0).flatten())
        self.plain = ORDER.clone()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self, self.a(x).relu()))


def _read_too(net: Net, x: Tensor) -> Tensor:
    return x[:, net.order] * (net.order > 3).view(-1, 1, 1)


FOLLOW: dict[str, tuple[Callable[[Net, Tensor], Tensor], int]] = {
    "index": (lambda net, x: x[:, net.order], 16),
    "select": (lambda net, x: torch.index_select(x, 1, net.order), 16),
    "back": (lambda net, x: F.relu(x[:, net.order])[:, net.back], 16),
    "last": (lambda net, x: x.movedim(1, -1)[..., net.order].movedim(-1, 1), 16),
    "groups": (lambda net, x: net.c(x[:, net.order]), 16),
    "sum": (lambda net, x: x + x[:, net.swap], 16),
    "twice": (lambda net, x: x[:, net.twice], 24),
    "plain": (lambda net, x: x[:, net.plain], 16),
}


@pytest.mark.parametrize("name", FOLLOW)
def test_the_order_follows(name: str) -> None:
    net = Net(*FOLLOW[name]).eval()
    graph = graphprune.trace(net, X)
    plan = graph.plan(0.5)
    slim = plan.apply(net)
    assert slim.a.out_channels == 8
    check = graphprune.verify(net, slim, plan, X)
    assert check.passed, check
    assert torch.equal(net.order, ORDER)


def test_numbers_are_those_of_the_channels_that_are_left() -> None:
    net = Net(lambda net, x: x[:, net.order])
    plan = graphprune.trace(net, X).plan(0.5)
    slim = plan.apply(net)
    left = plan.mask("a.weight").flatten(1).any(1).nonzero().flatten().tolist()
    assert [left[i] for i in slim.order.tolist()] == [i for i in ORDER.tolist() if i in left]


def test_a_wrong_order_does_not_pass() -> None:
    net = Net(lambda net, x: x[:, net.order]).eval()
    plan = graphprune.trace(net, X).plan(0.5)
    slim = plan.apply(net)
    slim.order.copy_(slim.order.flip(0))
    assert not graphprune.verify(net, slim, plan, X).passed


@pytest.mark.parametrize(
    "between",
    [lambda net, x: x[:, net.part].repeat(1, 2, 1, 1), _read_too, lambda net, x: x[:, torch.arange(15, -1, -1)]],
)
def test_other_numbers_hold_their_channels(between: Callable[[Net, Tensor], Tensor]) -> None:
    frozen = {str(f.axis): f.reason for f in graphprune.trace(Net(between), X).frozen}
    assert "looked up by number" in frozen["a.weight[0]"]


def test_in_place_in_rounds_and_from_files(tmp_path: Path) -> None:
    net = Net(lambda net, x: x[:, net.order]).eval()
    plan = graphprune.trace(net, X).plan(0.25)
    slim = graphprune.Plan.from_json(plan.to_json()).apply(net)
    second = graphprune.trace(slim, X).plan(0.25)
    slimmer = second.apply(slim)
    assert graphprune.verify(slim, slimmer, second, X).passed
    graphprune.save(slimmer, tmp_path)
    assert torch.equal(graphprune.load(tmp_path, net)(X), slimmer(X))
    plan.apply(net, inplace=True)
    assert torch.equal(net.order, slim.order)


def test_repair_and_folding() -> None:
    net = Net(lambda net, x: x[:, net.order]).eval()
    plan = graphprune.trace(net, X).plan(0.5)
    repaired, folded = plan.apply(net), plan.apply(net)
    before = repaired.order.clone()
    error = (repaired(X) - net(X)).norm()
    graphprune.repair(repaired, net, plan, [X])
    graphprune.fold(folded, net, plan, X)
    assert torch.equal(repaired.order, before)
    assert torch.equal(folded.order, before)
    assert (repaired(X) - net(X)).norm() < error
    assert (folded(X) - net(X)).norm() <= error
