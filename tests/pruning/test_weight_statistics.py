"""Numbers that programs take of weights alone: where inputs of these are gone, ``verify`` names what took them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

import graphprune


class Head(nn.Module):
    """A hidden layer, and a layer whose weight ``change`` makes from its parameter."""

    def __init__(self, change: Callable[[Tensor], Tensor], looks: bool = False) -> None:
        super().__init__()
        self.hidden = nn.Linear(6, 16)
        self.weight = nn.Parameter(torch.randn(5, 16))
        self.change, self.looks = change, looks

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.hidden(x))
        if self.looks and h.sum() < 0:
            h = -h
        return F.linear(h, self.change(self.weight))


class States(nn.Module):
    """A recurrent cell whose first state is learned, and is the first that the cell's weights are multiplied with."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.LSTMCell(6, 16), nn.Linear(16, 4)
        self.h, self.c = nn.Parameter(torch.randn(1, 16)), nn.Parameter(torch.randn(1, 16))

    def forward(self, x: Tensor) -> Tensor:
        state = self.h.expand(len(x), -1), self.c.expand(len(x), -1)
        for _ in range(2):
            state = self.cell(x, state)
        found: Tensor = self.out(state[0])
        return found


class Queries(nn.Module):
    """Learned queries go through layers of their own: no activation is multiplied with these layers' weights."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(4, 16))
        self.up, self.down, self.keys, self.out = (nn.Linear(*n) for n in ((16, 32), (32, 16), (6, 16), (16, 3)))

    def forward(self, x: Tensor) -> Tensor:
        queries = self.down(torch.sigmoid(self.up(self.queries)))
        found: Tensor = self.out(queries @ self.keys(x).transpose(1, 2) @ self.keys(x))
        return found


def inexact(model: nn.Module, *shape: int) -> tuple[str, ...]:
    model, x = model.eval(), torch.randn(*shape)
    plan = graphprune.trace(model, x).plan(0.5)
    check = graphprune.verify(model, plan.apply(model), plan, x)
    assert check.passed
    assert plan.kept
    return check.inexact


@pytest.mark.parametrize(
    "model",
    [
        Head(F.normalize),
        Head(F.normalize, looks=True),
        Head(lambda w: w / (w.square().sum(1, keepdim=True) + 1e-8).sqrt()),
        Head(lambda w: w * 0.5 / w.abs().amax(dim=1, keepdim=True)),
        Head(lambda w: w / torch.std_mean(w, dim=1, keepdim=True)[0]),
        nn.Sequential(nn.Linear(6, 16), nn.ReLU(), spectral_norm(nn.Linear(16, 4))),
    ],
    ids=["normalize", "looks at values", "by hand", "largest", "one of two results", "spectral"],
)
def test_numbers_taken_of_weights_over_removed_inputs_are_named(model: nn.Module) -> None:
    (named,) = inexact(model, 3, 6)
    assert "is taken over" in named


class Normalized(nn.Linear):
    """A layer without bias whose weights have one norm."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight / self.weight.norm())


@pytest.mark.parametrize(
    "layer",
    [
        Normalized(6, 16, bias=False),
        spectral_norm(nn.Linear(6, 16)),
        nn.utils.spectral_norm(nn.Linear(6, 16)),
        weight_norm(nn.Linear(6, 16), dim=None),
    ],
    ids=["by hand", "spectral", "spectral by a hook", "one norm"],
)
def test_numbers_taken_of_weights_over_removed_outputs_are_named(layer: nn.Module) -> None:
    (named,) = inexact(nn.Sequential(layer, nn.ReLU(), nn.Linear(16, 4)), 3, 6)
    assert "is taken over" in named


@pytest.mark.parametrize(
    "model",
    [
        Head(lambda w: w * 0.5),
        Head(lambda w: w.tanh().t().contiguous().t()),
        Head(lambda w: w - w.norm(dim=0)),
        Head(lambda w: torch.cat([w[:2].chunk(2)[0], w[2:], w[1:2]]).abs()),
    ],
    ids=["scaled", "entry by entry", "by input", "parts"],
)
def test_what_depends_on_no_removed_weight_is_not_named(model: nn.Module) -> None:
    assert not inexact(model, 3, 6)


def test_learned_states_are_no_weights() -> None:
    assert not inexact(States(), 3, 6)


def test_what_learned_queries_go_through_is_not_taken_for_a_number_of_weights() -> None:
    assert not inexact(Queries(), 2, 5, 6)
