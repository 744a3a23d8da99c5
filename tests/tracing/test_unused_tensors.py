"""States that a program makes and never uses hold nothing; what is used of them does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphprune

X = torch.randn(3, 8)
Beside = Callable[["Net", Tensor], object]


class Net(nn.Module):
    """A cell whose state is made by hand, and what is made beside it."""

    def __init__(self, beside: Beside) -> None:
        super().__init__()
        self.enter, self.cell, self.leave = nn.Linear(8, 16), nn.GRUCell(16, 12), nn.Linear(12, 4)
        self.hidden, self.beside = 12, beside

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(x.shape[0], self.hidden)
        kept = self.beside(self, x)
        found: Tensor = self.leave(self.cell(torch.relu(self.enter(x)), state))
        return found + kept if isinstance(kept, Tensor) else found


def alone(net: Net, x: Tensor) -> None:
    torch.zeros(1, x.shape[0], net.hidden)


def rearranged(net: Net, x: Tensor) -> None:
    torch.ones(x.shape[0], net.hidden).unsqueeze(0) * 2


def of_a_type(net: Net, x: Tensor) -> None:
    x.new_zeros(x.shape[0], net.hidden)
    x.relu().new_full((x.shape[0], net.hidden), 0.5).tanh()
    x.new_ones(x.shape[0], net.hidden) + x.new_empty(x.shape[0], net.hidden)


@pytest.mark.parametrize("beside", [alone, rearranged, of_a_type])
def test_what_nothing_uses_holds_nothing(beside: Beside) -> None:
    model = Net(beside).eval()
    slim = graphprune.prune_model(model, 0.5, X)
    assert slim.leave.in_features == slim.hidden == 6
    assert torch.isfinite(slim(torch.randn(7, 8))).all()


def counted(net: Net, x: Tensor) -> Tensor:
    table = torch.zeros(9, net.hidden)
    return x.new_zeros(1) + table.shape[1]


def returned(net: Net, x: Tensor) -> Tensor:
    return torch.arange(4.0) * torch.ones(net.hidden).sum()


@pytest.mark.parametrize("beside", [counted, returned])
def test_what_is_used_of_it_still_does(beside: Beside) -> None:
    model = Net(beside).eval()
    plan = graphprune.trace(model, X).plan(0.5)
    slim = plan.apply(model)
    assert slim.hidden in (6, 12)
    assert graphprune.verify(model, slim, plan, X).passed
