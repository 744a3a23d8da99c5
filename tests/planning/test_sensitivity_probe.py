"""Overrides hold while sensitivity is measured, but for ratios."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import nn

import graphprune
from graphprune import Override


def graph() -> graphprune.ChannelGraph:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2)]
    return graphprune.trace(nn.Sequential(*layers).eval(), torch.randn(3, 6))


def widths(overrides: Any) -> tuple[graphprune.Sensitivity, list[tuple[int, ...]]]:
    """What was measured, and the widths of the models that were."""
    seen = []

    def evaluate(model: nn.Module) -> float:
        seen.append(tuple(m.out_features for m in model if isinstance(m, nn.Linear))[:3])
        return 0.0

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", graphprune.UnmeasuredGroupsWarning)
        found = graph().sensitivity(evaluate, ratios=(0.3,), overrides=overrides)
    return found, seen[:-1]  # the last one is dense


def test_multiples_and_least_numbers_hold() -> None:
    _, plain = widths({})
    assert plain == [(23, 32, 32), (32, 23, 32), (32, 32, 23)]
    _, seen = widths({"*": Override(multiple=8), "4": Override(min_units=30)})
    assert seen[:2] == [(24, 32, 32), (32, 24, 32)]
    assert (32, 32, 23) not in seen


def test_frozen_groups_are_not_measured() -> None:
    found, seen = widths({"2": Override(frozen=True)})
    assert list(found.losses) == ["0", "4"]
    assert seen == [(23, 32, 32), (32, 32, 23)]


@pytest.mark.parametrize("overrides", [{"2": Override(ratio=0.5)}, {}])
def test_one_group_goes_at_a_time(overrides: Any) -> None:
    _, seen = widths(overrides)
    assert seen == [(23, 32, 32), (32, 23, 32), (32, 32, 23)]
