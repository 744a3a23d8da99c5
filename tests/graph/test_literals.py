"""Literals: the message shows the size as it is written, and what to write instead."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphprune

COLUMNS = pytest.mark.skipif(sys.version_info < (3, 11), reason="Python tells no columns")
WIDTH = 400
ENTRY = torch.tensor([400])[0]
X = torch.randn(2, 3, 32, 32)


class LeNet(nn.Module):
    """PyTorch's first tutorial, with another way to flatten."""

    def __init__(self, flattened: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * 5 * 5, 120), nn.Linear(120, 84), nn.Linear(84, 10)
        self.flattened = flattened

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.conv1(x).relu())
        x = self.flattened(self.pool(self.conv2(x).relu()))
        return self.fc3(self.fc2(self.fc1(x).relu()).relu())


def _as_rows(x: Tensor, width: int) -> Tensor:
    return x.view(-1, width)


def _checked(x: Tensor) -> Tensor:
    assert x.shape[1] == 16
    return x.flatten(1)


def _halves(x: Tensor) -> Tensor:
    return torch.cat([part * 2 for part in x.split(8, 1)], 1).flatten(1)


def _reason(flattened: Callable[[Tensor], Tensor]) -> str:
    frozen = graphprune.trace(LeNet(flattened), X).frozen
    return next(f.reason for f in frozen if f.axis == "conv2.weight[0]")


FLATTEN = "write x.flatten(1), or x.view(x.size(0), -1)"
WRITTEN: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "product": (
        lambda x: x.view(-1, 16 * 5 * 5),
        f"the size 400 is a literal (16 * 5 * 5 in x.view(-1, 16 * 5 * 5)); {FLATTEN}",
    ),
    "number": (lambda x: x.view(-1, 400), f"the size 400 is a literal (in x.view(-1, 400)); {FLATTEN}"),
    "lines": (
        lambda x: x.view(
            x.size(0),
            16 * 5 * 5,
        ),
        "(16 * 5 * 5 in x.view( x.size(0), 16 * 5 * 5, ))",
    ),
    "reshape": (lambda x: x.reshape(2, 16, 25).flatten(1), "(in x.reshape(2, 16, 25)); write -1 for it"),
    "with -1": (lambda x: x.view(-1, 16, 25).flatten(1), "(in x.view(-1, 16, 25)); read it from a tensor or a layer"),
    "argument": (lambda x: _as_rows(x, 400), "the size 400 is a literal (in _as_rows(x, 400))"),
    "global": (lambda x: x.view(-1, WIDTH), f"the size 400 is a plain number (in x.view(-1, WIDTH)); {FLATTEN}"),
    "entry": (
        lambda x: x.flatten(1) + torch.zeros(2, int(ENTRY)),
        "the size 400 is a plain number (in torch.zeros(2, int(ENTRY))); give x.shape[1] or layer.out_features itself",
    ),
    "numel": (lambda x: x.flatten(1) + torch.zeros(2, x.shape[1:].numel()), "int(), len(), shape.numel() and entries"),
    "zeros": (lambda x: x.flatten(1) + torch.zeros(2, 400), "(in torch.zeros(2, 400)); read it from a tensor"),
    "split": (_halves, "the size 8 is a literal (in x.split(8, 1)); write x.chunk(2, 1)"),
    "slice": (lambda x: (x[:, :8] * x[:, 8:]).repeat(1, 2, 1, 1).flatten(1), "write x.shape[1] // 2"),
    "comparison": (_checked, "(in x.shape[1] == 16); compare with the size of a layer instead"),
}


@COLUMNS
@pytest.mark.parametrize("name", WRITTEN)
def test_the_literal_is_shown_as_written(name: str) -> None:
    flattened, expected = WRITTEN[name]
    assert expected in _reason(flattened)


@pytest.mark.parametrize(
    "flattened",
    [lambda x: x.flatten(1), lambda x: x.view(x.size(0), -1), lambda x: torch.cat(x.chunk(2, 1)[::-1], 1)],
)
def test_the_advice_is_right(flattened: Callable[[Tensor], Tensor]) -> None:
    net = LeNet(lambda x: flattened(x).flatten(1))
    assert graphprune.prune_model(net, 0.5, X, verify=True).conv2.out_channels == 8


@pytest.mark.parametrize("file", ["<string>", "gone.py"])
def test_without_source_the_number_is_told(file: str) -> None:
    names: dict[str, Callable[[Tensor], Tensor]] = {}
    exec(compile("\nflattened = lambda x: x.view(-1, 16 * 25)\n", file, "exec"), names)
    assert _reason(names["flattened"]) == f"the size 400 is a literal; {FLATTEN} ({file}:2)"


@COLUMNS
def test_warnings_show_it() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 16, 3), nn.Linear(16 * 36, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).view(-1, 16 * 36))

    with pytest.warns(graphprune.NothingRemovedWarning, match=r"16 \* 36 in self\.a\(x\)\.view"):
        graphprune.prune_model(Net(), 0.5, torch.randn(2, 3, 8, 8))


def test_without_columns_the_number_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in Python 3.10."""
    monkeypatch.setattr("graphprune.graph.literals._span", lambda code, instruction: None)
    assert _reason(lambda x: x.view(-1, 16 * 5 * 5)).startswith(f"the size 400 is a literal; {FLATTEN} ({__file__}:")
