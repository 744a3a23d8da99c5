"""Cells of recurrent networks: as many old states as new ones, wherever the old ones come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune


class Net(nn.Module):
    """One step of a cell, with a state of another layer or of zeros. [n, 5] -> [n, 3]"""

    def __init__(self, cell: nn.Module, literal: bool = False) -> None:
        super().__init__()
        self.enter, self.state, self.cell = nn.Linear(5, 12), nn.Linear(5, 16), cell
        self.after, self.leave = nn.Linear(16, 8), nn.Linear(8, 3)
        self.literal = literal

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(x.shape[0], 16) if self.literal else self.state(x).tanh()
        given: Any = (state, state * 2) if isinstance(self.cell, nn.LSTMCell) else state
        found = self.cell(self.enter(x), given)
        y: Tensor = self.leave(self.after(found[0] if isinstance(found, tuple) else found).tanh())
        return y


@pytest.mark.parametrize("cell", [nn.RNNCell, nn.GRUCell, nn.LSTMCell])
@pytest.mark.parametrize(
    "options", [{"ratio": 0.5, "allocation": "global"}, {"macs": 0.5}, {"ratio": 0.5, "multiple": 4}]
)
def test_states_are_removed_together(cell: Any, options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model, x = Net(cell(12, 16)).eval(), torch.randn(4, 5)
    plan = graphprune.trace(model, x).plan(**options)
    slim = plan.apply(model)
    assert slim.state.out_features == slim.cell.hidden_size == slim.after.in_features < 16
    assert graphprune.verify(model, slim, plan, x).passed


def test_both_sides_of_a_plain_cell_follow_one_limit() -> None:
    model, x = Net(nn.RNNCell(12, 16, nonlinearity="relu")).eval(), torch.randn(4, 5)
    plan = graphprune.trace(model, x).plan(0.5, overrides={"state": graphprune.Override(max_ratio=0.2)})
    slim = plan.apply(model)
    assert slim.state.out_features == slim.after.in_features == 13
    assert graphprune.verify(model, slim, plan, x).passed


def test_a_ratio_over_all_groups_counts_what_can_go() -> None:
    """The states are tied to a literal; half of the other channels go."""
    model, x = Net(nn.RNNCell(12, 16), literal=True).eval(), torch.randn(4, 5)
    plan = graphprune.trace(model, x).plan(0.5, allocation="global")
    slim = plan.apply(model)
    assert slim.cell.hidden_size == 16
    assert slim.enter.out_features + slim.after.out_features == 10
    assert graphprune.verify(model, slim, plan, x).passed


class FirstState(nn.Module):
    """A recurrent layer whose first state is made by ``make(layer, batch)``. [n, t, 5] -> [n, 3]"""

    def __init__(self, make: Callable[[nn.LSTM, Tensor], Tensor]) -> None:
        super().__init__()
        self.make = make
        self.layer, self.leave = nn.LSTM(5, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = self.make(self.layer, x)
        y: Tensor = self.leave(self.layer(x, (first, first))[0][:, -1])
        return y


@pytest.mark.parametrize(
    "make",
    [
        lambda layer, x: x.new(1, len(x), layer.hidden_size).zero_(),
        lambda layer, x: next(layer.parameters()).data.new(torch.Size([1, len(x), layer.hidden_size])).fill_(0.1),
        lambda layer, x: x.new([0.1, 0.2])[1] + x.new_zeros(1, len(x), layer.hidden_size),
    ],
)
def test_a_first_state_of_the_old_constructor(make: Callable[[nn.LSTM, Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model, x = FirstState(make).eval(), torch.randn(4, 7, 5)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert slim.layer.hidden_size == 8
    assert graphprune.verify(model, slim, plan, x).passed


def _make_weights(module: nn.Module, _: Any) -> None:
    """A weight that is made before each call, as those of equalized learning rates and dropped weights are."""
    for name in [name for name in module._parameters if name.endswith("_raw")]:
        setattr(module, name.removesuffix("_raw"), module._parameters[name].detach() * 2)


@pytest.mark.parametrize("names", [["weight"], ["weight_hh_l0"], ["weight_ih_l0", "weight_hh_l0"]])
def test_weights_that_were_taken_out_of_a_layer(names: list[str]) -> None:
    torch.manual_seed(0)
    model, x = FirstState(lambda layer, x: x.new_zeros(1, len(x), layer.hidden_size)).eval(), torch.randn(4, 7, 5)
    layer = model.leave if names == ["weight"] else model.layer
    for name in names:
        layer.register_parameter(f"{name}_raw", layer._parameters.pop(name))
    layer.register_forward_pre_hook(_make_weights)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert slim.layer.hidden_size == 8
    assert graphprune.verify(model, slim, plan, x).passed
