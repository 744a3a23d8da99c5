"""Reasons name the constant that channels meet, and say what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphprune

X = torch.randn(2, 3, 8)
ORDER = torch.arange(15, -1, -1)
TABLE = torch.linspace(0, 1, 16)
SCALE = nn.Parameter(torch.rand(16))


class Net(nn.Module):
    """Two linear layers with a function between them."""

    def __init__(self, between: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)
        self.between = between
        self.register_buffer("mask", torch.arange(16) < 12)
        self.register_buffer("numbers", ORDER.clone())
        self.register_buffer("floats", TABLE.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.between(self, self.a(x).relu()))


def _encoded(net: Net, x: Tensor) -> Tensor:
    rates = torch.exp(torch.arange(0, x.shape[-1], 2) * (-9.2 / x.shape[-1]))
    angles = torch.arange(x.shape[1])[:, None] * rates
    return x + torch.cat([angles.sin(), angles.cos()], -1)


REASONS: dict[str, tuple[Callable[[Net, Tensor], Tensor], str]] = {
    "positions": (_encoded, "a constant that the program makes (arange, "),
    "gates": (lambda net, x: x * torch.linspace(0, 1, x.shape[-1]), "made once and registered as a buffer, it would"),
    "mask": (
        lambda net, x: x * net.mask.roll(1),
        "the buffer mask of torch.bool; to follow, it would have to meet channels entry by entry alone, or be of float",
    ),
    "places": (
        lambda net, x: x + x[..., net.mask].mean(-1, keepdim=True),
        "picked by a mask: the buffer mask of torch.bool; nothing of it can be removed",
    ),
    "parameter": (lambda net, x: x * SCALE, "a parameter of no module in the model; in an nn.ModuleList or nn.Param"),
    "global": (lambda net, x: x * TABLE, "neither a parameter nor a buffer; registered as a buffer, it would follow"),
    "numbers": (lambda net, x: x[..., torch.arange(15, -1, -1)], "looked up by number: a constant that the program"),
    "written": (
        lambda net, x: torch.zeros_like(x).index_copy(-1, net.numbers, x),
        "written by number: the buffer numbers of torch.int64; nothing of it can be removed",
    ),
    "parity": (
        lambda net, x: torch.where(torch.arange(x.shape[-1]) % 2 == 0, x, -x),
        "made once and registered as a buffer, it would follow",
    ),
    "order": (lambda net, x: x[..., ORDER], "registered as a buffer, it would follow if it names every channel"),
}


def _by_numpy(net: Net, x: Tensor) -> Tensor:
    return torch.from_numpy(np.tanh(x.detach().numpy()))


def _in_a_thread(net: Net, x: Tensor) -> Tensor:
    found: list[Tensor] = []
    thread = Thread(target=lambda: found.append(x.tanh()))
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize(
    ("between", "text"),
    [
        (_by_numpy, "it would follow, unless it is made of numbers that were read ("),
        (lambda net, x: x * torch.tensor([x.max().item()] * 16), "unless it is made of numbers that were read ("),
        (_in_a_thread, "meets a tensor that was computed where nothing is traced, such as in another thread"),
    ],
)
def test_what_depends_on_the_input_cannot_be_a_buffer(between: Callable[[Net, Tensor], Tensor], text: str) -> None:
    frozen = {str(f.axis): f.reason for f in graphprune.trace(Net(between), X).frozen}
    assert text in frozen["b.weight[1]"]


@pytest.mark.parametrize("name", REASONS)
def test_the_constant_is_named(name: str) -> None:
    between, expected = REASONS[name]
    frozen = {str(f.axis): f.reason for f in graphprune.trace(Net(between), X).frozen}
    assert expected in frozen["a.weight[0]"]


def test_the_advice_is_right() -> None:
    """The same numbers as a float buffer follow."""
    net = Net(lambda net, x: x * net.floats)
    slim = graphprune.prune_model(net, 0.5, X, verify=True)
    assert slim.a.out_features == 8 and len(slim.floats) == 8


def test_an_input_is_no_constant() -> None:
    net = Net(lambda net, x: x)
    reasons = {str(f.axis): f.reason for f in graphprune.trace(net, X).frozen}
    assert "the model's input" in reasons["a.weight[1]"]


@pytest.mark.parametrize("table", [lambda net: net.b.bias.diag(), lambda net: torch.linalg.inv(net.b.weight[:, :4])])
def test_what_depends_on_parameters_is_no_constant(table: Callable[[Net], Tensor]) -> None:
    net = Net(lambda net, x: x.unflatten(-1, (4, 4)) @ table(net))
    net.b = nn.Linear(4, 4)
    for frozen in graphprune.trace(net, X).frozen:
        assert "a constant that" not in frozen.reason
        assert "the buffer" not in frozen.reason
