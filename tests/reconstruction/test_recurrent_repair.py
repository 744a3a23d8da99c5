"""Repair of recurrent layers, of weights that are buffers, and of batches that reach a weight by other operations."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import graphprune
from tests.networks import randomize
from tests.reconstruction.test_layerwise import ridge_by_hand

CLOSE = {"rtol": 1e-8, "atol": 1e-10}


class Tagger(nn.Module):
    """A recurrent layer and a projection of its states."""

    def __init__(self, layer: type[nn.RNNBase]) -> None:
        super().__init__()
        self.layer = layer(6, 16, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layer(x)[0])
        return out


class CellTagger(nn.Module):
    """The same with a cell in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTMCell(6, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        width = self.layer.hidden_size
        state = x.new_zeros(len(x), width), x.new_zeros(len(x), width)
        outs = []
        for step in x.unbind(1):
            state = self.layer(step, state)
            outs.append(self.head(state[0]))
        return torch.stack(outs, 1)


class Converted(nn.Module):
    """Weights as converters of other formats hold them: buffers that are saved."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 16)
        self.register_buffer("weight", torch.randn(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        assert isinstance(self.weight, Tensor)
        out: Tensor = self.enter(x).relu() @ self.weight
        return out


def sequences(*sizes: int) -> list[Tensor]:
    return [torch.randn(size, 7, 6, dtype=torch.float64) for size in sizes]


def error(model: nn.Module, dense: nn.Module, batches: Sequence[Tensor]) -> float:
    with torch.no_grad():
        return float(sum((model(batch) - dense(batch)).square().sum() for batch in batches))


def made(model: nn.Module) -> nn.Module:
    return randomize(model).double().eval()


@pytest.mark.parametrize("layer", [nn.GRU, nn.LSTM, nn.RNN])
def test_all_weights_of_a_recurrent_layer_are_fitted(layer: type[nn.RNNBase]) -> None:
    model, batches = made(Tagger(layer)), sequences(40, 40)
    plan = graphprune.trace(model, batches[0]).plan(0.5)
    raw, slim = plan.apply(model), plan.apply(model)
    record = graphprune.reconstruct(slim, model, plan, batches)
    assert {one.name for one in record.repaired} == {"layer.weight_ih_l0", "layer.weight_hh_l0", "head.weight"}
    fresh = sequences(40)
    assert error(slim, model, fresh) < 0.9 * error(raw, model, fresh)


def test_a_recurrent_weight_is_fitted_on_the_dense_states_that_are_kept() -> None:
    """The slim model's own states depend on the weight, and would be others after the fit."""
    model, batches = made(Tagger(nn.GRU)), sequences(40, 40)
    plan = graphprune.trace(model, batches[0]).plan(0.5)
    raw, slim = plan.apply(model), plan.apply(model)
    graphprune.reconstruct(slim, model, plan, batches, ridge=1e-3)
    rows, columns = (torch.as_tensor(plan.kept["layer.weight_hh_l0"][dim]) for dim in (0, 1))
    with torch.no_grad():
        states = torch.cat([model.layer(batch)[0] for batch in batches])
        x = torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], 1).flatten(0, 1)
        y = (x @ model.layer.weight_hh_l0.T + model.layer.bias_hh_l0)[:, rows]
    by_hand = ridge_by_hand(x[:, columns], raw.layer.weight_hh_l0.detach(), y, 1e-3, True)
    torch.testing.assert_close(slim.layer.weight_hh_l0.detach(), by_hand, **CLOSE)


def test_a_cell_in_a_loop_is_fitted_like_a_layer() -> None:
    model, batches = made(CellTagger()), sequences(40, 40)
    plan = graphprune.trace(model, batches[0]).plan(0.5)
    raw, slim = plan.apply(model), plan.apply(model)
    record = graphprune.reconstruct(slim, model, plan, batches)
    assert {"layer.weight_hh", "head.weight"} <= {one.name for one in record.repaired}
    fresh = sequences(40)
    assert error(slim, model, fresh) < 0.9 * error(raw, model, fresh)


@pytest.mark.parametrize("layer", [nn.GRU, nn.LSTM])
def test_a_batch_of_one_sequence_reaches_the_same_weights(layer: type[nn.RNNBase]) -> None:
    """It takes other operations than larger batches do."""
    model, batches = made(Tagger(layer)), sequences(1, 40, 1)
    plan = graphprune.trace(model, batches[1]).plan(0.5)
    slim = plan.apply(model)
    record = graphprune.reconstruct(slim, model, plan, batches)
    assert {one.name for one in record.repaired} == {"layer.weight_ih_l0", "layer.weight_hh_l0", "head.weight"}
    assert record.left_alone == ()


def test_a_weight_that_is_a_buffer_is_fitted() -> None:
    model = made(Converted())
    model.weight.copy_(torch.randn(16, 5))
    batches = [torch.randn(50, 6, dtype=torch.float64) for _ in range(2)]
    plan = graphprune.trace(model, batches[0]).plan(0.5)
    raw, slim = plan.apply(model), plan.apply(model)
    record = graphprune.reconstruct(slim, model, plan, batches)
    assert {one.name for one in record.repaired} == {"enter.weight", "weight"}
    assert error(slim, model, batches) < 0.9 * error(raw, model, batches)
