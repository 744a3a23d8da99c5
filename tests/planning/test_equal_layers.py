"""layers='equal': repeated layers keep the same numbers of units, and such as a configuration can say."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune
from graphprune import InputError, Override, PlanError
from graphprune.graph.config_fields import ConfigFields

VECTOR = torch.randn(2, 24, generator=torch.Generator().manual_seed(0))


class Layer(nn.Module):
    """A residual block with hidden units."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


class Stack(nn.Module):
    """Three such blocks of 32 hidden units and one of 48, with different weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer(24, 32) for _ in range(3)] + [Layer(24, 48)])
        self.head = nn.Linear(24, 5)
        for number, layer in enumerate(self.layers):
            layer.up.weight.data *= torch.linspace(0.1, 1, len(layer.up.weight))[:, None] ** number

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def _kept(plan: graphprune.Plan) -> dict[str, int]:
    return {choice.group: choice.kept for choice in plan.choices}


def _stack() -> nn.Module:
    torch.manual_seed(0)
    return Stack()


def test_layers_of_one_size_keep_equal_counts_under_a_budget_and_choose_for_themselves() -> None:
    graph = graphprune.trace(_stack(), VECTOR)
    free, tied = graph.plan(params=0.5), graph.plan(params=0.5, layers="equal")
    names = [f"layers.{i}.up" for i in range(3)]
    assert len({_kept(free)[name] for name in names}) > 1
    assert len({_kept(tied)[name] for name in names}) == 1
    assert _kept(tied)["layers.3.up"] != _kept(tied)["layers.0.up"]
    removed = {name: tied.removed[name][1] for name in names}
    assert len(set(removed.values())) == 3
    assert graph.cost(tied).params <= 0.5 * graph.cost().params
    assert graphprune.verify(graph.model, tied.apply(graph.model), tied, VECTOR).passed


def test_what_holds_for_one_layer_holds_for_all() -> None:
    graph = graphprune.trace(_stack(), VECTOR)
    held = graph.plan(0.5, layers="equal", overrides={"layers.1.up": Override(min_units=28, multiple=4)})
    assert {_kept(held)[f"layers.{i}.up"] for i in range(3)} == {28}
    assert _kept(held)["layers.3.up"] == 24


def test_convolutions_one_after_another_are_no_repeated_layers() -> None:
    torch.manual_seed(0)
    convolutions = [nn.Conv2d(16, 16, 3, padding=1) for _ in range(3)]
    for number, convolution in enumerate(convolutions):
        convolution.weight.data *= 1 + number
    graph = graphprune.trace(nn.Sequential(nn.Conv2d(3, 16, 1), *convolutions), torch.randn(1, 3, 8, 8))
    assert graph.plan(params=0.5, layers="equal").removed == graph.plan(params=0.5).removed


def test_other_names_are_refused() -> None:
    with pytest.raises(InputError, match=r"^layers: 'same' is not known; use one of 'equal'"):
        graphprune.trace(_stack(), VECTOR).plan(0.5, layers="same")


# ---------------------------------------------------------------- a class that builds its models from a configuration


class Config:
    """Widths of a network; the number of parts must divide the width."""

    def __init__(self, **fields: Any) -> None:
        self.width, self.parts, self.part_width, self.inner, self.scaled = 32, 8, 4, None, False
        vars(self).update(fields)
        if self.width % self.parts:
            raise ValueError(f"{self.parts} parts do not divide {self.width}")

    def to_dict(self) -> dict[str, Any]:
        return copy.copy(vars(self))

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Config:
        return cls(**fields)


class Parts(nn.Module):
    """Attention, with parts for heads, and an MLP."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.part_width = config.part_width
        self.into = nn.Linear(config.width, config.parts * config.part_width)
        self.out = nn.Linear(config.parts * config.part_width, config.width)
        inner = 2 * config.width if config.inner is None else config.inner
        self.up, self.down = nn.Linear(config.width, inner), nn.Linear(inner, config.width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.into(x).view(x.shape[0], x.shape[1], -1, self.part_width).transpose(1, 2)
        x = x + self.out(F.scaled_dot_product_attention(parts, parts, parts).transpose(1, 2).flatten(2))
        return x + self.down(self.up(x).relu())


class Network(nn.Module):
    """Two blocks of parts, built from a configuration."""

    config_class = Config

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.scale = config.width**0.5 if config.scaled else 1.0
        self.stem = nn.Linear(6, config.width)
        self.blocks = nn.ModuleList(Parts(config) for _ in range(2))
        self.head = nn.Linear(config.width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x) * self.scale
        for block in self.blocks:
            x = block(x)
        return self.head(x)


SIX = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(0))


def _network(**fields: Any) -> Network:
    torch.manual_seed(0)
    return Network(Config(**fields))


def _rebuilt(slim: nn.Module) -> nn.Module:
    """What the class builds from the slim model's configuration, with its weights."""
    built = type(slim)(Config.from_dict(slim.config.to_dict()))
    built.load_state_dict(slim.state_dict())
    return built


@pytest.mark.parametrize("asked", [{"ratio": 0.3}, {"params": 0.45}, {"macs": 0.7}, {"width": 0.4, "mlp": 0.2}])
def test_the_class_builds_the_slim_model_from_its_configuration(asked: dict[str, float]) -> None:
    model = _network()
    plan = graphprune.trace(model, SIX).plan(**asked, layers="equal")
    slim = plan.apply(model)
    assert torch.equal(_rebuilt(slim)(SIX), slim(SIX))
    assert slim.config.width < 32
    assert slim.config.width % slim.config.parts == 0
    assert type(slim.config.inner) is int
    assert (model.config.width, model.config.inner) == (32, None)
    assert graphprune.Plan.from_json(plan.to_json()).apply(model).config.to_dict() == slim.config.to_dict()


def test_a_width_from_which_a_factor_is_worked_out_stays() -> None:
    model = _network(scaled=True)
    graph = graphprune.trace(model, SIX)
    slim = graph.plan(0.5, layers="equal").apply(model)
    assert (slim.config.width, slim.config.parts, slim.config.inner) == (32, 4, 32)
    assert torch.equal(_rebuilt(slim)(SIX), slim(SIX))
    assert graph.plan(0.5).apply(model).config.width == 32, "a class must not build another model of the same shapes"


def test_fields_follow_as_far_as_layers_agree() -> None:
    model = _network()
    group = "blocks.1.up"
    plan = graphprune.trace(model, SIX).plan(0.25, overrides={group: Override(ratio=0.75)})
    slim = plan.apply(model)
    assert (slim.config.width, slim.config.parts, slim.config.inner) == (24, 6, 64)


def test_a_field_that_moves_what_must_stay_is_no_direction() -> None:
    fields = ConfigFields.of(_network(), [])
    assert fields is not None
    found = fields.directions(lambda column: column[0] != "blocks.0.up.weight", [32, 8])
    assert {frozenset(direction.fields) for direction in found} == {frozenset({"parts"})}
    everything = fields.directions(lambda _: True, [32, 8, 64])
    assert {frozenset(d.fields) for d in everything} == {frozenset({name}) for name in ("width", "parts", "inner")}


def test_fields_follow_where_a_block_is_left_out() -> None:
    model = _network()
    plan = graphprune.trace(model, SIX).plan(0.5, depth=0.5, layers="equal")
    slim = plan.apply(model)
    assert len(plan.skipped) == 1
    assert (slim.config.width, slim.config.parts, slim.config.inner) == (16, 4, 32)


def test_what_no_field_can_say_is_an_error() -> None:
    class Stubborn(Network):
        """Builds other weights for a width that is smaller."""

        def __init__(self, config: Config) -> None:
            super().__init__(config)
            if config.width < 32 and config.width != 31:
                self.head = nn.Linear(config.width, 4)

    torch.manual_seed(0)
    model = Stubborn(Config())
    with pytest.raises(PlanError, match=r"^layers: no values of its configuration make Stubborn build the slim model"):
        graphprune.trace(model, SIX).plan(0.5, layers="equal")
