"""What an override says of a group holds against the arguments for all groups, and against overrides before it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import graphprune
from graphprune import Override


@pytest.fixture(scope="module")
def graph() -> graphprune.ChannelGraph:
    net = nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 4))
    return graphprune.trace(net, torch.randn(2, 8))


ALL_OF_15 = Override(min_units=15)


@pytest.mark.parametrize(
    ("asked", "kept"),
    [
        ({"ratio": 0.3, "multiple": 8, "overrides": {"0": Override(multiple=1)}}, [14, 16]),
        ({"ratio": 0.3, "multiple": 8, "overrides": {"0": Override(ratio=0.3)}}, [16, 16]),
        ({"ratio": 0.5, "max_ratio": 0.2, "overrides": {"0": Override(max_ratio=1.0)}}, [10, 16]),
        ({"ratio": 0.9, "overrides": {"*": ALL_OF_15, "2": Override(min_units=1)}}, [15, 2]),
        ({"ratio": 0.9, "overrides": {"2": Override(min_units=1), "*": ALL_OF_15}}, [15, 15]),
        ({"ratio": 0.5, "overrides": {"*": Override(frozen=True), "2": Override(frozen=False)}}, [20, 10]),
        ({"ratio": 0.5, "overrides": {"0": Override(frozen=True), "*": Override(ratio=0.5)}}, [20, 10]),
        ({"params": 0.04, "overrides": {"*": Override(max_ratio=0.99)}}, [1, 2]),
        ({"params": 0.04, "overrides": {"*": Override(max_ratio=1.0)}}, [1, 2]),
    ],
)
def test_what_an_override_says_holds_also_where_it_is_what_holds_by_default(
    graph: graphprune.ChannelGraph, asked: dict[str, Any], kept: list[int]
) -> None:
    assert [choice.kept for choice in graph.plan(**asked).choices] == kept


def test_what_is_none_is_not_said() -> None:
    assert Override().given() == {}
    assert Override(frozen=False, min_units=1).given() == {"frozen": False, "min_units": 1}
