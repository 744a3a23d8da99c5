"""Weights that modules make of other parameters stay dense, and a warning names them."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import graphprune
from graphprune import DenseWeightsWarning, sparsify
from graphprune.errors import InputError


def by_hook(make: Callable[[nn.Module], nn.Module]) -> Callable[[nn.Module], nn.Module]:
    def quietly(module: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch calls these deprecated
            return make(module)

    return quietly


MAKERS = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "weight_norm, by a hook": by_hook(nn.utils.weight_norm),
    "spectral_norm, by a hook": by_hook(nn.utils.spectral_norm),
}


def net(make: Callable[[nn.Module], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), make(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("layers", [None, [nn.Linear], "*"])
def test_they_are_named_and_the_others_masked(make: Callable[[nn.Module], nn.Module], layers: object) -> None:
    model = net(make)
    with pytest.warns(DenseWeightsWarning, match=r"2\.weight stay dense"):
        sparsify(model, 0.5, layers=layers)  # type: ignore[arg-type]
    assert prune.is_pruned(model[0])
    assert prune.is_pruned(model[4])
    assert int((model[2].weight == 0).sum()) == 0


@pytest.mark.parametrize("options", [{"skip": "2"}, {"layers": ["0", "4"]}])
def test_those_that_are_not_asked_for_are_not_named(options: dict[str, object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sparsify(net(parametrizations.weight_norm), 0.5, **options)  # type: ignore[arg-type]


def test_masks_and_biases_are_no_such_weights() -> None:
    model = net(lambda module: module)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sparsify(model, 0.5)
        sparsify(model, 0.5)
        normed = net(lambda module: nn.utils.parametrizations.weight_norm(module, "bias", dim=None))
        sparsify(normed, 0.5)


def test_one_that_is_named_by_itself_is_refused() -> None:
    model = net(by_hook(nn.utils.weight_norm))
    with pytest.raises(InputError, match="WeightNorm makes it from other parameters"):
        sparsify(model, 0.5, layers="2")
    with pytest.raises(InputError, match=r"matches no parameter|WeightNorm makes it"):
        sparsify(model, 0.5, layers=[model[2]])
    assert graphprune.sparsity_of(model).zeros == 0
