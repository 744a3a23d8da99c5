"""What tells one run from another is the same in another process, and differs where what is asked does."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.planning.asked import as_data, asked_of
from graphprune.planning.options import PruningOptions


class Criterion:
    """An object that prints its address alone."""

    def __init__(self, power: int) -> None:
        self.power = power

    def __call__(self, group: Any, context: Any) -> Tensor:
        return torch.from_numpy(context.coupled_norms(group, self.power))


def by_power(power: int, group: Any, context: Any) -> Tensor:
    return torch.from_numpy(context.coupled_norms(group, power))


def test_defaults_and_data_are_not_told() -> None:
    assert asked_of(PruningOptions(0.5, calibration=[torch.ones(2)], seed=0)) == {"ratio": 0.5}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"overrides": {"a": graphprune.Override(frozen=True)}}, {"overrides": {"a": graphprune.Override(ratio=0.2)}}),
        ({"overrides": {nn.Linear: graphprune.Override(frozen=True)}}, {"overrides": {}}),
        ({"importance": Criterion(1)}, {"importance": Criterion(2)}),
        ({"importance": partial(by_power, 1)}, {"importance": partial(by_power, 2)}),
        ({"multiple": 8}, {"multiple": 4}),
        ({"normalize": "max"}, {}),
    ],
)
def test_what_differs_is_told(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert asked_of(PruningOptions(0.5, **one)) != asked_of(PruningOptions(0.5, **other))


def test_what_is_the_same_is_told_alike() -> None:
    assert as_data(Criterion(1)) == as_data(Criterion(1))
    assert as_data(partial(by_power, 1)) == as_data(partial(by_power, 1))
    assert as_data({"x": torch.arange(3), "y": [nn.Linear, None, (1, 2.5)]}) == {
        "x": as_data(torch.arange(3)),
        "y": ["torch.nn.modules.linear.Linear", None, [1, 2.5]],
    }
