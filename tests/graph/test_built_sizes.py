"""The sizes of what a class builds from a configuration: those of all layers follow from a few."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from graphprune.graph.built_sizes import BuiltSizes
from graphprune.tracing.configured import Columns, Refused, columns, rebuilt

DEPTH = 12


class Config:
    """Widths of a network, and whether its layers differ in how they follow them."""

    def __init__(self, **fields: Any) -> None:
        self.width, self.hidden, self.depth, self.steps = 8, 16, DEPTH, DEPTH
        self.dense_from: int | None = None
        self.shares = [1] * DEPTH
        self.scaled = False
        vars(self).update(fields)
        if len(self.shares) != self.depth:
            raise ValueError("a share for every layer")

    def to_dict(self) -> dict[str, Any]:
        return copy.copy(vars(self))

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Config:
        return cls(**fields)


class Layer(nn.Module):
    def __init__(self, config: Config, number: int) -> None:
        super().__init__()
        self.heads = config.steps
        self.scale = 1.0 / config.depth if config.scaled else 1.0
        hidden = config.hidden * config.shares[number]
        self.up, self.down = nn.Linear(config.width, hidden), nn.Linear(hidden, config.width)
        self.more = nn.Linear(4, 4) if config.dense_from is not None and number >= config.dense_from else None


class Network(nn.Module):
    config_class = Config

    built = 0
    """How many layers were built since this was set."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList([Layer(config, number) for number in range(config.depth)])
        self.norms = nn.ModuleList([nn.LayerNorm(config.width) for _ in range(2)])
        self.head = nn.Linear(config.width, 5)
        Network.built += config.depth


READS = tuple(f"layers.{number}.heads" for number in range(DEPTH))


def _sizes(**fields: Any) -> BuiltSizes:
    with torch.device("meta"):
        return BuiltSizes(Network(Config(**fields)), READS)


def _whole(sizes: BuiltSizes, values: Mapping[str, int]) -> Columns:
    """What the whole model has."""
    found = columns(rebuilt(sizes._model, values), READS)
    return {column: size for column, size in found.items() if column in sizes.base}


@pytest.mark.parametrize("values", [{"width": 24}, {"hidden": 5}, {"steps": 6}, {"width": 16, "hidden": 32}])
def test_all_layers_follow_from_two(values: dict[str, int]) -> None:
    sizes = _sizes()
    assert sizes.at({}) == sizes.base
    Network.built = 0
    found = sizes.at(values)
    assert Network.built == 2
    assert found == _whole(sizes, values) != sizes.base


def test_layers_of_other_sizes_stand_for_themselves() -> None:
    sizes = _sizes(shares=[1, 1, 2] + [1] * (DEPTH - 3))
    sizes.at({})
    Network.built = 0
    assert sizes.at({"hidden": 32}) == _whole(sizes, {"hidden": 32})
    assert Network.built == 4 + DEPTH


@pytest.mark.parametrize(
    "fields",
    [{"scaled": True}, {"shares": [1] * (DEPTH - 1) + [3]}, {"dense_from": DEPTH - 2}],
    ids=["a number that counts layers", "an odd one at the end", "modules at the end"],
)
def test_where_sizes_do_not_follow_all_layers_are_built(fields: dict[str, Any]) -> None:
    sizes = _sizes(**fields)
    sizes.at({})
    Network.built = 0
    assert sizes.at({"width": 16}) == _whole(sizes, {"width": 16})
    assert Network.built == 2 * DEPTH


def test_what_counts_layers_and_what_one_layer_has_is_asked_of_the_whole_model() -> None:
    sizes = _sizes()
    assert sizes.at({"shares[11]": 3}) == _whole(sizes, {"shares[11]": 3})
    assert ("layers.11.up.weight", 0) in sizes.at({"steps": 2})
    with pytest.raises(Refused):
        sizes.at({"depth": 6})


def test_a_class_that_builds_nothing_is_refused() -> None:
    with torch.device("meta"):
        model = Network(Config())
    model.config.shares = [1]
    with pytest.raises(Refused):
        BuiltSizes(model, ())
