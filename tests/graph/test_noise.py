"""Noise that forward draws as wide as channels are loses those entries with them; seeded noise is a table."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, manual_seed, nn

import graphprune
from graphprune.graph.propagate import SEEDED

X = torch.randn(5, 8)


class Autoencoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.latent = 12
        self.enter, self.leave = nn.Linear(8, 16), nn.Linear(12, 8)
        self.mean, self.deviation = nn.Linear(16, 12), nn.Linear(16, 12)

    def noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape[0], self.latent)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x).relu()
        mean = self.mean(h)
        found: Tensor = self.leave(mean + self.noise(mean) * self.deviation(h))
        return found


class Generator(Autoencoder):
    """Begins with noise alone."""

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.leave(self.noise(x))
        return found


class Dropped(Autoencoder):
    def noise(self, like: Tensor) -> Tensor:
        return (torch.rand(like.shape) > 0.3).to(like.dtype)


@pytest.mark.parametrize("kind", [Autoencoder, Generator, Dropped])
@pytest.mark.filterwarnings("ignore::graphprune.UnreachedWarning")
def test_noise_goes_with_its_channels(kind: type[Autoencoder]) -> None:
    model = kind().eval()
    plan = graphprune.trace(model, X).plan(0.5)
    slim = plan.apply(model)
    assert slim.leave.in_features == 6
    assert graphprune.verify(model, slim, plan, X).passed
    assert slim(torch.randn(3, 8)).shape == (3, 8)


class Seeded(Autoencoder):
    """Has the same numbers at every call."""

    def noise(self, like: Tensor) -> Tensor:
        torch.manual_seed(3)
        return torch.randn(like.shape[0], self.latent)


class SeededByName(Autoencoder):
    def noise(self, like: Tensor) -> Tensor:
        manual_seed(271)
        return torch.randn(like.shape[0], self.latent)


class OfAGenerator(Autoencoder):
    def noise(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape[0], self.latent, generator=torch.Generator().manual_seed(3))


class SeededWithinFork(Autoencoder):
    def noise(self, like: Tensor) -> Tensor:
        with torch.random.fork_rng():
            manual_seed(3)
            return torch.randn(like.shape[0], self.latent)


class SeededAsItIs(Autoencoder):
    """Sets the seed that there is already."""

    def noise(self, like: Tensor) -> Tensor:
        manual_seed(torch.initial_seed() if self.training else SEED)
        return torch.randn(like.shape[0], self.latent)


class OfAState(Autoencoder):
    def __init__(self) -> None:
        super().__init__()
        self.state = torch.get_rng_state()

    def noise(self, like: Tensor) -> Tensor:
        with torch.random.fork_rng():
            torch.set_rng_state(self.state)
            return torch.randn(like.shape[0], self.latent)


class OfTheDefaultGenerator(Autoencoder):
    def noise(self, like: Tensor) -> Tensor:
        with torch.random.fork_rng():
            torch.default_generator.manual_seed(3)
            return torch.randn(like.shape[0], self.latent)


class InPlace(Autoencoder):
    def noise(self, like: Tensor) -> Tensor:
        return torch.empty_like(like).normal_(generator=torch.Generator().manual_seed(3))


SEED, UNLABELED = 17, "meets a dimension without channels"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        *((kind, SEEDED) for kind in (Seeded, SeededByName, SeededWithinFork, SeededAsItIs, OfAState)),
        (OfTheDefaultGenerator, SEEDED),
        (OfAGenerator, "a constant that the program makes"),
        (InPlace, UNLABELED),
    ],
)
def test_numbers_that_are_always_the_same_stay(kind: type[Autoencoder], reason: str) -> None:
    torch.manual_seed(SEED)
    model, seed, state = kind().eval(), torch.manual_seed, torch.get_rng_state()
    graph = graphprune.trace(model, X)
    assert reason in str(graph.why_frozen("leave.weight[1]"))
    assert graph.plan(0.5).apply(graph.model).leave.in_features == 12
    assert torch.manual_seed is seed and torch.equal(torch.get_rng_state(), state)


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.normal(self.enter(x), 1.0, generator=torch.Generator().manual_seed(3))
        found: Tensor = self.leave(y)
        return found


def test_numbers_of_a_generator_around_channels_hold_them() -> None:
    graph = graphprune.trace(Around().eval(), X)
    assert "drawn by a generator of its own" in str(graph.why_frozen("enter")) and not graph.groups
