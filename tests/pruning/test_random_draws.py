"""Random numbers drawn in forward are the same for the masked original and the slim model, by dense position."""

import random
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune

X = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))


def reparametrized(net: "Drawing", h: Tensor) -> Tensor:
    return net.mean(h) + torch.randn_like(h) * net.mean(h).exp()


def uniform(net: "Drawing", h: Tensor) -> Tensor:
    return net.mean(h) * torch.rand_like(h) + torch.rand(3, 1)


def dropped(net: "Drawing", h: Tensor) -> Tensor:
    return F.dropout(net.mean(F.dropout(h, 0.3, training=True)), 0.5, training=True)


def of_probabilities(net: "Drawing", h: Tensor) -> Tensor:
    return net.mean(h) * torch.bernoulli(net.last(h).sigmoid())[:, :1]


def by_chance(net: "Drawing", h: Tensor) -> Tensor:
    return net.mean(h) if random.random() < 0.5 else net.mean(h).sin()


def looked_at(net: "Drawing", h: Tensor) -> Tensor:
    noisy = h + torch.randn_like(h)
    return net.mean(noisy) if noisy.sum() > -1e9 else noisy


WAYS = [reparametrized, uniform, dropped, of_probabilities, by_chance, looked_at]


class Drawing(nn.Module):
    """Draws random numbers over channels that can be removed."""

    def __init__(self, way: Callable[["Drawing", Tensor], Tensor]) -> None:
        super().__init__()
        self.way, self.first, self.mean, self.last = way, nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.way(self, self.first(x).relu()))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("seed", [0, 1])
def test_draws_are_the_same(way: Callable[[Drawing, Tensor], Tensor], seed: int) -> None:
    torch.manual_seed(seed)
    random.seed(seed)
    model = Drawing(way).eval()
    plan = graphprune.trace(model, X).plan(0.5)
    slim = plan.apply(model)
    state, python = torch.get_rng_state(), random.getstate()
    assert graphprune.verify(model, slim, plan, X).passed
    assert torch.equal(torch.get_rng_state(), state)
    assert random.getstate() == python
    for wrecked in ("first.weight", "mean.weight", "last.weight"):
        broken = plan.apply(model)
        with torch.no_grad():
            broken.get_parameter(wrecked).mul_(1.5)
        assert not graphprune.verify(model, broken, plan, X).passed


def test_another_distribution_is_seen() -> None:
    """A slim model that drops with another probability draws its own numbers."""
    model = Drawing(dropped).eval()
    plan = graphprune.trace(model, X).plan(0.5)
    slim = plan.apply(model)
    slim.way = lambda net, h: F.dropout(net.mean(F.dropout(h, 0.2, training=True)), 0.5, training=True)
    assert not graphprune.verify(model, slim, plan, X).passed
