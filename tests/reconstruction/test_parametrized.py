"""Repair of weights that their modules compute: they are fitted where they can be given a value, or listed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import is_parametrized, register_parametrization

import graphprune
from tests.networks import randomize


class Doubled(nn.Module):
    """A weight that is twice its parameter."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Halved(Doubled):
    """The same with an inverse."""

    def right_inverse(self, x: Tensor) -> Tensor:
        return x / 2


class Net(nn.Module):
    """A layer whose weight is computed. [n, 3, 6, 6] -> [n, 5, ...]"""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.enter, self.layer = nn.Conv2d(3, 16, 3), layer

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x).relu()
        out: Tensor = self.layer(y if isinstance(self.layer, nn.Conv2d) else y.mean((2, 3)))
        return out


def linear(change: Callable[[nn.Module], Any]) -> nn.Module:
    layer = nn.Linear(16, 5)
    change(layer)
    return layer


def older_weight_norm(layer: nn.Module) -> None:
    with pytest.warns(FutureWarning, match="weight_norm"):
        nn.utils.weight_norm(layer)


def repaired(layer: nn.Module) -> tuple[Net, Net, Net, graphprune.Repair]:
    """The dense model, the slim one before and after its repair, and the record."""
    model = randomize(Net(layer)).double().eval()
    batches = [torch.randn(40, 3, 6, 6, dtype=torch.float64) for _ in range(2)]
    plan = graphprune.trace(model, batches[0]).plan(0.5)
    raw, slim = plan.apply(model), plan.apply(model)
    record = graphprune.repair(slim, model, plan, batches)
    return model, raw, slim, record  # type: ignore[return-value]


def error(model: nn.Module, dense: nn.Module) -> float:
    batch = torch.randn(40, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return float((model(batch) - dense(batch)).square().sum())


@pytest.mark.parametrize(
    "layer",
    [
        linear(parametrizations.weight_norm),
        linear(lambda layer: register_parametrization(layer, "weight", Halved())),
        parametrizations.weight_norm(nn.Conv2d(16, 5, 3)),
    ],
)
def test_a_weight_that_can_be_given_a_value_is_fitted(layer: nn.Module) -> None:
    model, raw, slim, record = repaired(layer)
    assert {one.name for one in record.repaired} == {"enter.weight", "layer.weight"}
    assert error(slim, model) < 0.7 * error(raw, model)
    assert is_parametrized(slim.layer) and all(t.requires_grad for t in slim.parameters())


def test_a_weight_under_the_older_hook_is_fitted() -> None:
    model, raw, slim, record = repaired(linear(older_weight_norm))
    assert "layer.weight" in {one.name for one in record.repaired}
    assert error(slim, model) < 0.7 * error(raw, model)
    assert set(dict(slim.layer.named_parameters())) == {"weight_g", "weight_v", "bias"}


@pytest.mark.parametrize(
    "change",
    [
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        lambda layer: register_parametrization(layer, "weight", Doubled()),
    ],
)
def test_a_weight_that_cannot_be_given_a_value_is_listed(change: Callable[[nn.Module], Any]) -> None:
    _, raw, slim, record = repaired(linear(change))
    assert {one.name for one in record.repaired} == {"enter.weight"}
    found = {one.name: one.why for one in record.left_alone}
    assert found["layer.parametrizations.weight.original"].startswith("a weight is computed from it by ")
    for (_, now), (_, before) in zip(slim.layer.state_dict().items(), raw.layer.state_dict().items(), strict=True):
        assert torch.equal(now, before)


def test_the_dense_model_keeps_its_parametrization() -> None:
    layer = linear(parametrizations.weight_norm)
    before = {name: t.clone() for name, t in layer.double().state_dict().items()}
    model, *_ = repaired(layer)
    assert is_parametrized(model.layer)
    assert before.keys() == model.layer.state_dict().keys()
    assert type(model.layer).__name__ == "ParametrizedLinear"


def test_a_weight_of_a_recurrent_layer_is_fitted() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = parametrizations.weight_norm(nn.LSTM(6, 16, batch_first=True), "weight_hh_l0")
            self.leave = nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.leave(self.layer(x)[0])
            return out

    model, batch = randomize(Tagger()).double().eval(), torch.randn(40, 5, 6, dtype=torch.float64)
    plan = graphprune.trace(model, batch).plan(0.5)
    raw, slim = plan.apply(model), plan.apply(model)
    record = graphprune.repair(slim, model, plan, [batch])
    assert "layer.weight_hh_l0" in {one.name for one in record.repaired}
    with torch.no_grad():
        errors = [float((one(batch) - model(batch)).square().sum()) for one in (raw, slim)]
    assert errors[1] < 0.8 * errors[0]


def test_a_parameter_that_is_no_factor_of_an_input_is_listed() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enter, self.pair = nn.Linear(6, 16), nn.Bilinear(16, 16, 5)
            self.scaled, self.factor = nn.Linear(16, 5), nn.Parameter(torch.rand(5, 1) + 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.enter(x).tanh()
            out: Tensor = self.pair(y, y) + F.linear(y, self.scaled.weight * self.factor)
            return out

    model, batch = Pair().double().eval(), torch.randn(40, 6, dtype=torch.float64)
    plan = graphprune.trace(model, batch).plan(0.5)
    record = graphprune.repair(plan.apply(model), model, plan, [batch])
    found = {one.name: one.why for one in record.left_alone}
    assert found["pair.weight"] == "used by _trilinear, which is no product of it with an input"
    assert found["scaled.weight"].startswith("a weight is computed from it by mul")
