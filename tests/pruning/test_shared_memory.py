"""Parameters in one memory that are not one parameter are separate in the slim model, which is said."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune


class Around(nn.Module):
    """An encoder and a decoder, of which ``tie`` puts the weights into one memory."""

    def __init__(self, tie: Callable[[Any], None]) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 16), nn.Linear(16, 6)
        tie(self)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.leave(self.enter(x).relu())
        return found


def by_data(model: Any) -> None:
    model.leave.weight.data = model.enter.weight.data.t()


def by_parameter(model: Any) -> None:
    model.leave.weight = nn.Parameter(model.enter.weight.t())


def beside(model: Any) -> None:
    flat = torch.randn(2 * 96)
    model.enter.weight.data, model.leave.weight.data = flat[:96].view(16, 6), flat[96:].view(6, 16)


X = torch.randn(3, 6)


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("tie", [by_data, by_parameter])
def test_weights_in_one_memory_are_named(tie: Callable[[Any], None], inplace: bool) -> None:
    model = Around(tie).eval()
    plan = graphprune.trace(model, X).plan(0.5)
    with pytest.warns(
        graphprune.SharedMemoryWarning, match=r"^(enter|leave)\.weight and (enter|leave)\.weight are one"
    ):
        slim = plan.apply(model, inplace)
    slim.enter.weight.data.zero_()
    assert slim.leave.weight.any()


@pytest.mark.parametrize("tie", [lambda model: None, beside])
def test_other_memory_is_passed_over(tie: Callable[[Any], None]) -> None:
    model = Around(tie).eval()
    plan = graphprune.trace(model, X).plan(0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan.apply(model)


def test_one_parameter_under_two_names_stays_one() -> None:
    model = nn.Sequential(
        nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 2)
    )
    model[4].weight = model[2].weight
    plan = graphprune.trace(model, X).plan(0.5)
    slim: Any = plan.apply(model)
    assert slim[4].weight is slim[2].weight


class Halves(nn.Module):
    """Reads a buffer through views of it, as an attribute and in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 16), nn.Linear(16, 2)
        self.register_buffer("scales", torch.arange(1.0, 13.0).view(2, 6))
        self.low, self.rows = self.scales[0], [self.scales[0], self.scales[1]]

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.leave(self.enter(x * self.low * self.rows[1]).relu())
        return found


def test_views_of_a_buffer_stay_views_of_it() -> None:
    model = Halves().eval()
    slim: Any = graphprune.trace(model, X).plan(0.5).apply(model)
    slim.scales.zero_()
    assert slim.enter.out_features == 8 and not slim.low.any() and not slim.rows[1].any()
    assert model.scales.all() and model.low.all()
