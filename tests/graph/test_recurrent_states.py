"""Stacked and bidirectional recurrent layers: each layer and direction keeps equally many units, of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import graphprune
from tests.networks import randomize

WIDTH, LAYERS = 12, 2


class Net(nn.Module):
    """A recurrent layer of two layers and both directions. [n, 2, 5] -> [n, ..., 3]

    Args:
        layer: its class.
        read: what is made of the outputs and the last states.
        width: of that.
        start: makes the first states from the input; None: torch does.
    """

    def __init__(
        self,
        layer: type[nn.RNNBase] = nn.LSTM,
        read: Callable[[Tensor, Tensor], Tensor] = lambda y, h: y,
        width: int = 2 * WIDTH,
        start: Callable[[Net, Tensor], Tensor] | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.layer = layer(5, WIDTH, LAYERS, bidirectional=True, batch_first=True, **options)
        self.leave, self.read, self.start = nn.Linear(width, 3), read, start

    def forward(self, x: Tensor) -> Tensor:
        states = None if self.start is None else self.start(self, x)
        pair = (states, states) if isinstance(self.layer, nn.LSTM) and states is not None else states
        y, last = self.layer(x, pair)
        out: Tensor = self.leave(self.read(y, last[0] if isinstance(last, tuple) else last))
        return out


class Packed(Net):
    """The same on sequences of several lengths."""

    def forward(self, x: Tensor) -> Tensor:
        lengths = torch.tensor([x.shape[1] - 1] + [x.shape[1]] * (len(x) - 1))
        states = None if self.start is None else (self.start(self, x), self.start(self, x))
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        out: Tensor = self.leave(pad_packed_sequence(self.layer(packed, states)[0], batch_first=True)[0])
        return out


class Translator(nn.Module):
    """The last states of one layer are the first ones of another, step by step."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.GRU(5, WIDTH, LAYERS, batch_first=True)
        self.decoder = nn.GRU(5, WIDTH, LAYERS, batch_first=True)
        self.leave = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        _, states = self.layer(x)
        word, words = x[:, :1], []
        for _ in range(2):
            y, states = self.decoder(word, states)
            words.append(word := self.leave(y))
        return torch.cat(words, 1)


def zeros(net: Net, x: Tensor) -> Tensor:
    return x.new_zeros(2 * LAYERS, len(x), net.layer.hidden_size)


def half(net: Net, x: Tensor) -> Tensor:
    return torch.full((2 * LAYERS, len(x), net.layer.hidden_size), 0.5).to(x)


def slim_of(model: nn.Module, **options: Any) -> tuple[graphprune.Plan, Any]:
    """A plan, and a slim model that equals the dense one with zeros."""
    model = randomize(model).double().eval()
    x = torch.randn(3, 2, 5, dtype=torch.float64)
    plan = graphprune.trace(model, x).plan(**(options or {"ratio": 0.5}))
    slim = plan.apply(model)
    assert graphprune.verify(model, slim, plan, x).passed
    return plan, slim


def units_of(plan: graphprune.Plan, layer: str = "layer") -> set[tuple[int, ...]]:
    """The units that each layer and direction keeps."""
    names = [name for name in plan.kept if name.startswith(f"{layer}.weight_hh")]
    return {tuple(np.sort(plan.kept[name][1]).tolist()) for name in names}


@pytest.mark.parametrize(
    "model",
    [
        Net(nn.LSTM),
        Net(nn.RNN),
        Net(nn.LSTM, proj_size=6, width=12),
        Net(nn.GRU, lambda y, h: h[-1], WIDTH),
        Net(nn.LSTM, lambda y, h: h.transpose(0, 1).flatten(1), 4 * WIDTH),
        Net(nn.GRU, lambda y, h: h.permute(1, 2, 0).flatten(1), 4 * WIDTH),
        Net(nn.LSTM, start=zeros),
        Net(nn.GRU, start=half),
        Packed(start=zeros),
    ],
)
def test_each_layer_and_direction_keeps_units_of_its_own(model: nn.Module) -> None:
    plan, slim = slim_of(model)
    assert slim.layer.hidden_size == WIDTH // 2
    assert len(units_of(plan)) > LAYERS


def masked(y: Tensor, last: Tensor) -> Tensor:
    shown = (torch.arange(y.size(1)) < 1).view(1, -1, 1).expand_as(y)
    return y.masked_fill(~shown, 0).sum(1)


def gathered(y: Tensor, last: Tensor) -> Tensor:
    steps = torch.arange(len(y)).remainder(y.size(1)).view(-1, 1, 1)
    return y.gather(1, steps.repeat(1, 1, y.size(2)))[:, 0]


@pytest.mark.parametrize("read", [masked, gathered, lambda y, h: y * y.new_full((), 0.5).expand(y.size(-1))])
@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
def test_what_is_repeated_for_every_unit_is_so_for_those_that_are_left(layer: Any, read: Any) -> None:
    plan, slim = slim_of(Net(layer, read))
    assert slim.layer.hidden_size == WIDTH // 2
    assert len(units_of(plan)) > LAYERS


@pytest.mark.parametrize("options", [{"macs": 0.4, "allocation": "global"}, {"ratio": 0.4, "multiple": 4}])
def test_as_many_units_stay_in_each_layer_whatever_is_asked_for(options: dict[str, Any]) -> None:
    plan, slim = slim_of(Net(nn.GRU), **options)
    assert {len(units) for units in units_of(plan)} == {slim.layer.hidden_size}
    assert slim.layer.hidden_size % options.get("multiple", 1) == 0


def test_last_states_that_are_added_up_keep_the_same_units() -> None:
    plan, _ = slim_of(Net(nn.GRU, lambda y, h: h.mean(0), WIDTH))
    assert len(units_of(plan)) == 1


def test_a_learned_first_state_keeps_the_same_units() -> None:
    """An entry of its parameter is one of every layer."""
    model = Net(nn.GRU, start=lambda net, x: net.state.expand(-1, len(x), -1).contiguous())
    model.state = nn.Parameter(torch.randn(2 * LAYERS, 1, WIDTH))
    plan, _ = slim_of(model)
    assert len(units_of(plan)) == 1


def test_states_that_are_handed_on_are_tied_layer_by_layer() -> None:
    plan, slim = slim_of(Translator())
    assert slim.layer.hidden_size == slim.decoder.hidden_size == WIDTH // 2
    assert units_of(plan) == units_of(plan, "decoder")
    assert len(units_of(plan)) == LAYERS


def test_a_layer_whose_output_is_the_models_keeps_the_others_as_wide() -> None:
    model = Net(nn.RNN)
    model.leave = nn.Identity()
    with pytest.warns(graphprune.NothingRemovedWarning, match="tied to sizes that cannot change"):
        plan = graphprune.trace(model, torch.randn(3, 2, 5)).plan(0.5)
    assert not plan.kept
