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


DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "probabilities": lambda h: h * torch.bernoulli(h.sigmoid()),
    "probabilities in place": lambda h: h * torch.empty_like(h).bernoulli_(h.sigmoid()),
    "rates": lambda h: h * torch.poisson(h.relu()),
    "means": lambda h: torch.normal(h, 0.5),
    "deviations": lambda h: torch.normal(0.5, h.abs() + 1.0),
    "means and deviations": lambda h: torch.normal(h, h.abs() + 1.0),
    "counts": lambda h: torch.binomial(torch.full_like(h, 5.0), h.sigmoid()),
    "gamma": lambda h: h * torch._standard_gamma(h.abs() + 1.0),
    "a softmax with noise": lambda h: h * F.gumbel_softmax(h, dim=1),
    "integers": lambda h: h * torch.randint_like(h, 3),
    "slopes": lambda h: F.rrelu(h, training=True),
    "a distribution": lambda h: torch.distributions.Normal(h, h.abs() + 1.0).rsample(),
}


@pytest.mark.parametrize("name", DRAWS)
def test_draws_entry_by_entry_are_pruned(name: str) -> None:
    model = Drawing(lambda net, h: net.mean(DRAWS[name](h))).eval()
    plan = graphprune.trace(model, X).plan(0.5, importance="random")
    slim = plan.apply(model)
    assert slim.mean.in_features < model.mean.in_features
    assert graphprune.verify(model, slim, plan, X).passed


def test_draws_among_channels_stay() -> None:
    model = Drawing(lambda net, h: net.mean(h * torch.multinomial(h.softmax(1), 2).sum(1, keepdim=True))).eval()
    plan = graphprune.trace(model, X).plan(0.5, importance="random")
    slim = plan.apply(model)
    assert slim.mean.in_features == model.mean.in_features
    assert graphprune.verify(model, slim, plan, X).passed


class OwnGenerator(nn.Module):
    """Adds noise of a generator of its own; the layer beside it can be pruned."""

    def __init__(self, draw: Callable[[Tensor, torch.Generator], Tensor]) -> None:
        super().__init__()
        self.draw, self.noisy, self.generator = draw, nn.Linear(8, 6), torch.Generator().manual_seed(3)
        self.beside = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
        self.last = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.noisy(x)
        return self.last(h + self.draw(h, self.generator)) + self.beside(x)


GENERATED: dict[str, Callable[[Tensor, torch.Generator], Tensor]] = {
    "normal": lambda h, g: torch.empty_like(h).normal_(generator=g),
    "exponential": lambda h, g: torch.empty_like(h).exponential_(generator=g),
    "cauchy": lambda h, g: torch.empty_like(h).cauchy_(generator=g),
    "logarithms": lambda h, g: torch.empty_like(h).log_normal_(generator=g),
    "trials": lambda h, g: torch.empty_like(h).geometric_(0.5, generator=g),
    "rates": lambda h, g: torch.poisson(h.abs(), generator=g),
    "counts": lambda h, g: torch.binomial(torch.full_like(h, 5.0), h.sigmoid(), generator=g),
    "gamma": lambda h, g: torch._standard_gamma(h.abs() + 1.0, generator=g),
    "a look at values": lambda h, g: torch.empty_like(h).uniform_(generator=g) if h.sum() > -1e9 else h,
}


@pytest.mark.parametrize("name", GENERATED)
def test_noise_of_a_generator_of_its_own_stays(name: str) -> None:
    """And no step draws from the generator of the user's model."""
    model = OwnGenerator(GENERATED[name]).eval()
    before = model.generator.get_state()
    graph = graphprune.trace(model, X)
    plan = graph.plan(0.5)
    slim = plan.apply(model)
    assert graphprune.verify(model, slim, plan, X).passed
    assert torch.equal(model.generator.get_state(), before)
    assert slim.noisy.out_features == 6 and slim.beside[0].out_features == 8
    assert "drawn by a generator of its own" in str(graph.why_frozen("noisy"))
