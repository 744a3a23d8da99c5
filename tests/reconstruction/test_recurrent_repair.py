"""Repair of recurrent layers, of weights that are buffers, and of batches that reach a weight by other operations."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import graphprune
from tests.networks import randomize
from tests.reconstruction.test_layerwise import ridge_by_hand

WIDTH = 30
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


class Reader(nn.Module):
    """Reads the rows of images of digits, one after another."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), self.head.in_features)
        for row in x.unbind(1):
            state = self.step(row, state)
        out: Tensor = self.head(state)
        return out

    def step(self, row: Tensor, state: Tensor) -> Tensor:
        raise NotImplementedError


class TwoLayers(Reader):
    """Its transition has two layers: each depends on earlier results of both."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.first, self.second = (nn.Linear(size, WIDTH) for size in (8, WIDTH, WIDTH))

    def step(self, row: Tensor, state: Tensor) -> Tensor:
        inner: Tensor = self.second((self.first(state) + self.enter(row)).relu())
        return inner.tanh()


class TwoWeights(Reader):
    """A GRU by hand, whose gates and candidates have a weight each."""

    def __init__(self) -> None:
        super().__init__()
        self.gates, self.candidate = nn.Linear(8 + WIDTH, 2 * WIDTH), nn.Linear(8 + WIDTH, WIDTH)

    def step(self, row: Tensor, state: Tensor) -> Tensor:
        keep, reset = self.gates(torch.cat([row, state], 1)).sigmoid().chunk(2, 1)
        new = self.candidate(torch.cat([row, reset * state], 1)).tanh()
        return keep * state + (1 - keep) * new


class Projected(nn.Module):
    """An LSTM whose states are projected."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.LSTM(8, 2 * WIDTH, batch_first=True, proj_size=WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layer(x)[0].mean(1))
        return out


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


def read_digits(model: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """Train a model on images of digits; some for calibration, others, and what these show."""
    digits = load_digits()
    images, labels = torch.tensor(digits.images).float() / 16, torch.tensor(digits.target)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(120):
        some = slice(step % 12 * 100, step % 12 * 100 + 100)
        optimizer.zero_grad()
        F.cross_entropy(model(images[some]), labels[some]).backward()
        optimizer.step()
    return images[:128], images[1200:], labels[1200:]


@pytest.mark.parametrize("kind", [TwoLayers, TwoWeights, Projected])
@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN:UserWarning")
def test_several_weights_in_one_loop_are_fitted_on_dense_states(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = kind()
    calibration, images, labels = read_digits(model)

    @torch.no_grad()
    def loss(net: nn.Module) -> float:
        return float(F.cross_entropy(net(images), labels))

    plan = graphprune.trace(model.eval(), images[:2]).plan(0.3)
    slim = plan.apply(model)
    dense, cut = loss(model), loss(slim)
    assert cut > dense + 0.3
    graphprune.reconstruct(slim, model, plan, calibration.split(32))
    assert loss(slim) < dense + 0.2 * (cut - dense)


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
