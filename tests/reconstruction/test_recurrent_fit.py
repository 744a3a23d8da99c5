"""A recurrent layer that runs on its own states is not further from the dense one after repair."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.pruning.plan import Plan
from graphprune.reconstruction import layerwise, recurrent_fit
from tests.reconstruction.test_recurrent_repair import Tagger, made

WEIGHT = "layer.weight_hh_l0"


def excitable(seed: int) -> tuple[nn.Module, list[Tensor]]:
    """A layer whose small errors grow with every step, and sequences."""
    torch.manual_seed(seed)
    model = Tagger(nn.LSTM).double().eval()
    with torch.no_grad():
        for name, tensor in model.layer.named_parameters():
            if "bias" in name:
                tensor.zero_()
        model.layer.weight_hh_l0.normal_(std=0.5)
        model.layer.bias_ih_l0[16:32] = 2
    return model, [torch.randn(20, 20, 6, dtype=torch.float64) for _ in range(2)]


def own_error(slim: nn.Module, dense: nn.Module, plan: Plan, batches: list[Tensor]) -> float:
    """How far the states are from those of the dense model."""
    keep = torch.from_numpy(plan.kept[WEIGHT][1])
    with torch.no_grad():
        return float(sum((slim.layer(x)[0] - dense.layer(x)[0][..., keep]).square().sum() for x in batches))


@pytest.mark.parametrize(("seed", "fitted"), [(9, True), (12, False)])
def test_own_states_are_no_further_from_the_dense_ones(
    seed: int, fitted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batches = excitable(seed)
    plan = graphprune.trace(model, batches[0]).plan(0.5)
    raw, slim, unsettled = plan.apply(model), plan.apply(model), plan.apply(model)
    before = own_error(raw, model, plan, batches)
    record = graphprune.reconstruct(slim, model, plan, batches)
    after = own_error(slim, model, plan, batches)
    assert after < before if fitted else after == before
    assert (WEIGHT in {one.name for one in record.repaired}) == fitted
    assert fitted or torch.equal(slim.layer.weight_hh_l0, raw.layer.weight_hh_l0)
    assert fitted or torch.equal(slim.layer.bias_hh_l0, raw.layer.bias_hh_l0)
    assert [one.why for one in record.left_alone] == ([] if fitted else [recurrent_fit.LEADS_AWAY])

    monkeypatch.setattr(layerwise, "settled", lambda one, *_: one.record)
    graphprune.reconstruct(unsettled, model, plan, batches)
    assert own_error(unsettled, model, plan, batches) > before  # what the fit on dense states alone makes


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_further_fits_bring_it_nearer(layer: type[nn.RNNBase], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x = made(Tagger(layer)), torch.randn(60, 12, 6, dtype=torch.float64)
    with torch.no_grad():
        model.layer.weight_hh_l0 *= 2
    plan = graphprune.trace(model, x).plan(0.5)
    slim, other = plan.apply(model), plan.apply(model)
    record = graphprune.reconstruct(slim, model, plan, [x])
    monkeypatch.setattr(layerwise, "settled", lambda one, *_: one.record)
    graphprune.reconstruct(other, model, plan, [x])
    assert own_error(slim, model, plan, [x]) < 0.97 * own_error(other, model, plan, [x])
    (fitted,) = (one for one in record.repaired if one.name == WEIGHT)
    assert fitted.after < fitted.before


def test_a_fit_that_is_no_nearer_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, x = made(Tagger(nn.GRU)), torch.randn(40, 7, 6, dtype=torch.float64)
    plan = graphprune.trace(model, x).plan(0.5)
    slim, other = plan.apply(model), plan.apply(model)
    monkeypatch.setattr(recurrent_fit, "GAIN", 1.0)
    graphprune.reconstruct(slim, model, plan, [x])
    monkeypatch.setattr(layerwise, "settled", lambda one, *_: one.record)
    graphprune.reconstruct(other, model, plan, [x])
    assert all(torch.equal(a, b) for a, b in zip(slim.parameters(), other.parameters(), strict=True))
