"""Tensors that reach the program by ways that no operation shows are recognized by their memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune


class Tagged(Tensor):
    """What libraries derive from tensors to carry metadata."""


class Net(nn.Module):
    """Two convolutions with a program of the test's between them. [n, 3, 8, 8] -> [n, 10]"""

    def __init__(self, between: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.middle = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.leave = nn.Linear(16, 10)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        y = self.between(self, F.relu(self.enter(x)))
        z: Tensor = self.leave(F.relu(self.middle(y)).mean((2, 3)))
        return z


def given_data(net: Any, y: Tensor) -> Tensor:
    """Other elements in a tensor that an operation made."""
    z = torch.zeros_like(y)
    z.data = y.data
    return z


SAME: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "subclass": lambda net, y: y.as_subclass(Tagged) + 1,
    "made subclass": lambda net, y: Tensor._make_subclass(Tagged, y) * 2,
    "parameter": lambda net, y: nn.Parameter(y) * 1.5,
    "data": lambda net, y: y.data * 2,
    "given data": given_data,
}


def pruned(model: nn.Module, x: Tensor) -> graphprune.Plan:
    """The plan at one half, which must be right."""
    plan = graphprune.trace(model, x).plan(0.5)
    check = graphprune.verify(model, plan.apply(model), plan, x)
    assert check.passed, check
    return plan


@pytest.mark.parametrize("name", SAME)
def test_the_same_elements_have_the_same_channels(name: str) -> None:
    plan = pruned(Net(SAME[name]).eval(), torch.randn(2, 3, 8, 8))
    assert {choice.group: len(choice.removed) for choice in plan.choices} == {"enter": 8, "middle": 8}


def test_an_example_of_a_subclass() -> None:
    plan = pruned(Net(lambda net, y: y).eval(), torch.randn(2, 3, 8, 8).as_subclass(Tagged))
    assert [len(choice.removed) for choice in plan.choices] == [8, 8]


@pytest.mark.parametrize("wrapped", [lambda w: w.data, nn.Parameter])
def test_a_weight_read_around_autograd(wrapped: Callable[[Tensor], Tensor]) -> None:
    """It is the weight itself, and is cut with the channels that it reads."""
    model = Net(lambda net, y: F.conv2d(y, wrapped(net.middle.weight), padding=1)).eval()
    kept = pruned(model, torch.randn(2, 3, 8, 8)).kept
    assert len(kept["enter.weight"][0]) == len(kept["middle.weight"][1]) == 8
