"""Layers that keep their weights as other tensors: names and overrides mean the layer's own dimensions."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import graphprune
from graphprune.errors import InputError
from graphprune.planning.limits import Override

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def masked(layer: nn.Module) -> nn.Module:
    prune.l1_unstructured(layer, "weight", 0.3)
    return layer


def older(norm: Callable[..., nn.Module]) -> Callable[[nn.Module], nn.Module]:
    def kept(layer: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return norm(layer)

    return kept


KEEPS = {
    "as it is": lambda layer: layer,
    "masked": masked,
    "weight_norm": parametrizations.weight_norm,
    "older weight_norm": older(weight_norm),
    "spectral_norm": parametrizations.spectral_norm,
    "older spectral_norm": older(spectral_norm),
}


def network(keeps: Callable[[nn.Module], nn.Module], transposed: bool) -> nn.Sequential:
    torch.manual_seed(0)
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    middle = keeps(kind(8, 16, 3, bias=False))
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), middle, nn.ReLU(), nn.Conv2d(16, 4, 3)).eval()


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("keeps", KEEPS.values(), ids=list(KEEPS))
def test_overrides_and_names_mean_what_a_layer_puts_out(
    keeps: Callable[[nn.Module], nn.Module], transposed: bool
) -> None:
    model = network(keeps, transposed)
    graph = graphprune.trace(model, IMAGE)
    keys = ["2", "2*", model[2], type(model[2]) if transposed else lambda group: group.units == 16]
    for key in keys:
        plan = graph.plan(0.5, overrides={key: Override(frozen=True)})
        assert [choice.kept for choice in plan.choices] == [4, 16], key
    for name in ("2", "2.weight", f"2.weight[{1 if transposed else 0}]"):
        assert graph.group(name).units == 16
        assert plan_keeps(graph, model, name) == [8, 3]


def plan_keeps(graph: graphprune.ChannelGraph, model: nn.Sequential, name: str) -> list[int]:
    slim = graph.plan_from_kept({name: [0, 3, 5]}).apply(model)
    return [slim[2].in_channels, slim[2].out_channels]


def test_a_model_that_is_parametrized_itself() -> None:
    model = parametrizations.weight_norm(nn.Linear(8, 16))
    graph = graphprune.trace(model, torch.randn(2, 8), outputs=lambda out: out.sum())
    assert [group.units for group in graph.groups] == [16]
    assert graph.group("weight[0]") is graph.groups[0]


def test_a_frozen_group_says_so() -> None:
    graph = graphprune.trace(network(KEEPS["as it is"], False), IMAGE)
    plan = graph.plan(0.5, overrides={"2": Override(frozen=True)})
    assert [choice.why for choice in plan.choices] == ["ratio 0.5", "frozen ('2')"]


def test_a_question_about_a_group_takes_a_group() -> None:
    graph = graphprune.trace(network(KEEPS["as it is"], False), IMAGE)
    with pytest.raises(InputError, match=r"overrides: <lambda>\(\) is called as <lambda>\(group\)"):
        graph.plan(0.5, overrides={(lambda: True): Override(ratio=0.5)})
