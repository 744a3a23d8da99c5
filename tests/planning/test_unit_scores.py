"""Scores of models that work out their weights: with masks of ``torch.nn.utils.prune`` or of one's own, normalized."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

import graphprune
from graphprune.planning.options import PruningOptions
from graphprune.planning.unit_scores import UnitScores


@pytest.mark.parametrize("importance", ["l1", "l2", "lamp"])
def test_filters_that_are_masked_go_first(importance: str) -> None:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3)).eval()
    prune.random_structured(model[0], "weight", 0.5, dim=0)
    masked = ~model[0].weight_mask.flatten(1).any(1)
    plan = graphprune.trace(model, torch.randn(1, 3, 8, 8)).plan(0.25, importance=importance)
    gone = torch.tensor(next(iter(plan.removed.values()))[1])
    assert len(gone) == 4
    assert bool(masked[gone].all())
    assert bool(masked.any())
    slim = plan.apply(model)
    assert slim[0].out_channels == slim[0].weight.shape[0] == 12
    assert graphprune.verify(model, slim, plan, torch.randn(1, 3, 8, 8)).passed


class Masked(nn.Linear):
    """A mask that is no torch mask: every second row is zero where it is used."""

    def __init__(self, weight: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__(32, 64)
        self.register_buffer("mask", torch.ones(64, 32))
        self.mask[::2] = 0
        self.made = weight

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.made(self.weight, self.mask), self.bias)


class Half(nn.Module):
    """Zeros in every second row."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.arange(64.0)[:, None] % 2)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask


def kept_rows(first: nn.Module, name: str, **options: object) -> Tensor:
    model = nn.Sequential(first, nn.ReLU(), nn.Linear(64, 8)).eval()
    plan = graphprune.trace(model, torch.randn(2, 32)).plan(0.5, **options)
    return plan.mask(name).any(1)


MASKS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a product": lambda w, m: w * m,
    "a mask of rows": lambda w, m: w * m[:, :1],
    "where": lambda w, m: torch.where(m > 0, w, 0.0),
    "masked_fill": lambda w, m: w.masked_fill(m == 0, 0.0),
    "after a normalization": lambda w, m: (w - w.mean(1, keepdim=True)) / w.std(1, keepdim=True) * m,
}


@pytest.mark.parametrize("importance", ["l1", "l2", "fpgm"])
@pytest.mark.parametrize("name", MASKS)
def test_rows_of_a_mask_of_ones_own_go_first(name: str, importance: str) -> None:
    torch.manual_seed(0)
    kept = kept_rows(Masked(MASKS[name]), "0.weight", importance=importance)
    assert not bool(kept[::2].any())
    assert int(kept.sum()) == 32


def test_a_parametrization() -> None:
    torch.manual_seed(0)
    first = nn.Linear(32, 64)
    parametrize.register_parametrization(first, "weight", Half())
    assert not bool(kept_rows(first, "0.parametrizations.weight.original")[::2].any())


def test_a_parameter_that_is_used_without_its_mask_too_is_scored_as_it_is() -> None:
    class Both(Masked):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + F.linear(x, self.weight)

    torch.manual_seed(0)
    first = Both(MASKS["a product"])
    with torch.no_grad():
        first.weight[1::2] *= 0.01
    assert bool(kept_rows(first, "0.weight")[::2].all())


def test_weights_in_effect_are_those_that_the_module_has() -> None:
    layers = [parametrizations.weight_norm(nn.Linear(8, 8)), nn.ReLU(), parametrizations.spectral_norm(nn.Linear(8, 8))]
    model = nn.Sequential(*layers, nn.Linear(8, 2)).eval()
    graph = graphprune.trace(model, torch.rand(2, 8))
    made = UnitScores(graph, PruningOptions.of(0.5, {})).context.in_effect
    names = {"0.parametrizations.weight.original1": model[0], "2.parametrizations.weight.original": model[2]}
    assert made.keys() == names.keys()
    for name, module in names.items():
        torch.testing.assert_close(made[name], module.weight.detach())


def test_a_square_weight_that_is_used_as_it_is() -> None:
    """Its rows and columns are the same channels; transposed it is the weight still."""
    cell = nn.RNN(8, 16, batch_first=True).eval()
    graph = graphprune.trace(cell, torch.randn(2, 3, 8), outputs=lambda out: out[0].sum(-1))
    assert not UnitScores(graph, PruningOptions.of(0.5, {})).context.in_effect
