"""Functions, hooks and objects that hold weights of a model hold those of the slim one: loaded, and pruned in place."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphprune
from graphprune.errors import LoadError

X = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))


@dataclass
class Box:
    weight: Tensor

    def read(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class Slots:
    __slots__ = ("weight",)

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight


class Pair(NamedTuple):
    weight: Tensor
    name: str


def read(holder: Any, x: Tensor) -> Tensor:
    return F.linear(x, holder.weight)


class Net(nn.Module):
    """A function that reads the weight of the second layer, which nothing else does."""

    def __init__(self, hold: Callable[[Net], Callable[[Tensor], Tensor]]) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 16), nn.Linear(16, 16, bias=False), nn.Linear(16, 3)
        self.register_buffer("scale", torch.rand(16))
        self.gate = nn.Parameter(torch.rand(16))
        self.read = hold(self)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last((self.read(self.first(x)) * self.scale + self.gate).relu())
        return result


def closure(net: Net) -> Callable[[Tensor], Tensor]:
    weight = net.second.weight
    return lambda x: F.linear(x, weight)


def attribute(net: Net) -> Callable[[Tensor], Tensor]:
    net.held = {"all": (net.second.weight, None)}  # type: ignore[assignment]
    return lambda x: F.linear(x, net.held["all"][0])  # type: ignore[index]


def queue(net: Net) -> Callable[[Tensor], Tensor]:
    held = deque([net.second.weight])
    return lambda x: F.linear(x, held[0])


def hooks(net: Net) -> Callable[[Tensor], Tensor]:
    scale = net.scale
    net.first.register_forward_hook(lambda module, args, output: output * scale)
    net.last.register_forward_pre_hook(partial(gated, net.gate))
    return net.second.forward


def gated(gate: Tensor, module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    return (args[0] * gate,)


def key(net: Net) -> Callable[[Tensor], Tensor]:
    net.factors = {net.second.weight: 2.0, (1, net.second.weight): 3.0}  # type: ignore[assignment]
    weights: Any = net.second
    return lambda x: F.linear(x, weights.weight * net.factors[weights.weight])  # type: ignore[operator]


HOLDERS: dict[str, Callable[[Net], Callable[[Tensor], Tensor]]] = {
    "closure": closure,
    "default": lambda net: lambda x, weight=net.second.weight: F.linear(x, weight),
    "keyword": lambda net: lambda x, *, weight=net.second.weight: F.linear(x, weight),
    "partial": lambda net: partial(F.linear, weight=net.second.weight),
    "partial of a partial": lambda net: partial(partial(read, Box(net.second.weight))),
    "object": lambda net: partial(read, Box(net.second.weight)),
    "method": lambda net: Box(net.second.weight).read,
    "slots": lambda net: partial(read, Slots(net.second.weight)),
    "named tuple": lambda net: partial(read, Pair(net.second.weight, "second")),
    "attribute": attribute,
    "key": key,
    "queue": queue,
    "hooks": hooks,
}


def net_of(holder: str, seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net(HOLDERS[holder]).eval()


@pytest.mark.parametrize("holder", HOLDERS)
def test_what_is_loaded_reads_the_weights_that_were_loaded(holder: str, tmp_path: Path) -> None:
    """They had those that the fresh model was built with, on meta: random numbers came out, or an error of shapes."""
    slim = graphprune.prune_model(net_of(holder), 0.5, X)
    graphprune.save(slim, tmp_path)
    loaded = graphprune.load(tmp_path, model=net_of(holder, seed=1)).eval()
    assert torch.equal(loaded(X), slim(X))
    with torch.no_grad():
        for tensor in (*loaded.second.parameters(), loaded.scale, loaded.gate):
            tensor.zero_()
    assert torch.equal(loaded(X), loaded.last(torch.zeros(2, loaded.last.in_features)))


@pytest.mark.parametrize("holder", HOLDERS)
def test_in_place_as_in_a_copy(holder: str) -> None:
    """What has no name of its own kept the dense weights."""
    wanted = graphprune.prune_model(net_of(holder), 0.5, X)(X)
    assert torch.equal(graphprune.prune_model(net_of(holder), 0.5, X, inplace=True)(X), wanted)


def test_other_models_keep_their_weights() -> None:
    """A teacher in a list that shares a weight: its other layers would not fit the slim one."""
    student, teacher = net_of("closure"), net_of("default", seed=1)
    student.first.weight = teacher.first.weight
    student.teacher = [teacher]  # type: ignore[assignment]
    wanted = teacher(X)
    graphprune.prune_model(student, 0.5, X, inplace=True)
    assert torch.equal(teacher(X), wanted)


def test_what_no_bundle_holds_is_named(tmp_path: Path) -> None:
    """Tensors of functions are not saved: built on meta, they have no values."""

    def hold(net: Net) -> Callable[[Tensor], Tensor]:
        shift = torch.tensor(3.0)
        return lambda x: net.second(x) + shift

    slim = graphprune.prune_model(Net(hold), 0.5, X)
    graphprune.save(slim, tmp_path)
    with torch.device("meta"):
        model = Net(hold)
    with pytest.raises(LoadError, match=r"the model\.read has no values in the bundle"):
        graphprune.load(tmp_path, model=model)
    assert torch.equal(graphprune.load(tmp_path, model=Net(hold))(X), slim(X))
