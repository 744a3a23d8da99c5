"""When the default type must be float64, and what of the process is changed otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.pruning.float64 import reads_default_type

SEEN: SimpleQueue[torch.dtype] = SimpleQueue()
"""What is written into lists is gone after a check."""


def _taken() -> set[torch.dtype]:
    return {SEEN.get() for _ in range(SEEN.qsize())}


class Between(nn.Module):
    """Something between two layers. [n, 4] -> [n, 3]."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 8), nn.Linear(8, 3)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        SEEN.put(torch.get_default_dtype())
        return self.leave(self.between(self.enter(x)))


def added_up(x: Tensor) -> Tensor:
    """Rounded to the default type in between."""
    sums = torch.zeros(x.shape)
    sums += x
    return sums


READS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "nothing": (torch.relu, False),
    "integers": (lambda x: x + torch.arange(x.shape[0])[:, None], False),
    "zeros of its type": (lambda x: x + torch.zeros(x.shape, dtype=x.dtype), False),
    "zeros like it": (lambda x: torch.zeros_like(x) + x, False),
    "pieces": (lambda x: torch.cat(x.chunk(2, 0)), False),
    "zeros": (added_up, True),
    "a quotient of integers": (lambda x: x * (torch.arange(1, x.shape[0] + 1) / 3)[:, None], True),
    "a root of integers": (lambda x: x * torch.arange(x.shape[0])[:, None].sqrt(), True),
    "a constant": (lambda x: x * torch.tensor([0.1]), True),
}


@pytest.mark.parametrize("name", READS)
def test_the_default_type_is_set_where_a_program_reads_it(name: str) -> None:
    between, reads = READS[name]
    model, x = Between(between), torch.randn(3, 4)
    graph = graphprune.trace(model, x)
    assert reads_default_type(graph.trace.graph) == reads
    plan = graph.plan(0.5)
    slim = plan.apply(model)
    _taken()
    assert graphprune.verify(model, slim, plan, x).relative < 1e-14
    assert (torch.float64 in _taken()) == reads
    assert torch.get_default_dtype() == torch.float32


@dataclass
class Settings:
    """What a model may hold beside modules."""

    table: Tensor


HELD: dict[str, Callable[[Tensor], tuple[Any, Callable[[Any], Tensor]]]] = {
    "tuple": lambda t: ((t,), lambda held: held[0]),
    "dict": lambda t: ({"table": t}, lambda held: held["table"]),
    "dataclass": lambda t: (Settings(t), lambda held: held.table),
    "list within a list": lambda t: ([[t]], lambda held: held[0][0]),
    "function": lambda t: (lambda: t, lambda held: held()),
    "partial": lambda t: (partial(torch.mul, t), lambda held: held(1.0)),
    "module in a list": lambda t: ([nn.BatchNorm1d(3)], lambda held: held[0].running_var * t.mean() + 0.3),
}


class Holding(nn.Module):
    """A table that is worked out further, held in any way. [n, 4] -> [n, 3]."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 8), nn.Linear(8, 3)
        self.held, self.read = HELD[how](torch.rand(3))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.leave(self.enter(x).relu()) * self.read(self.held).cos()
        return found


@pytest.mark.parametrize("how", HELD)
def test_what_a_model_holds_in_any_way_is_computed_with_in_float64(how: str) -> None:
    torch.manual_seed(0)
    model, x = Holding(how).eval(), torch.randn(3, 4)
    plan = graphprune.trace(model, x).plan(0.5)
    assert graphprune.verify(model, plan.apply(model), plan, x).relative < 1e-14
    assert model(x).dtype == torch.float32


class Ensemble(nn.Module):
    """Runs stacked weights in a module without values. [n, 5] -> [2, n, 3]"""

    def __init__(self, hold: Callable[[nn.Module], Any], held: Callable[[Any], nn.Module]) -> None:
        super().__init__()
        nets = [nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3)) for _ in range(2)]
        stacked, _ = torch.func.stack_module_state(nets)
        self.weights = nn.ParameterDict({name.replace(".", "_"): t.detach() for name, t in stacked.items()})
        self.base, self.held = hold(nets[0].to("meta")), held

    def forward(self, x: Tensor) -> Tensor:
        return torch.vmap(lambda weights: self.run_one(weights, x))(dict(self.weights.items()))

    def run_one(self, weights: dict[str, Tensor], x: Tensor) -> Tensor:
        named = {name.replace("_", "."): weight for name, weight in weights.items()}
        found: Tensor = torch.func.functional_call(self.held(self.base), named, (x,))
        return found


HELD_WITHOUT_VALUES: dict[str, tuple[Callable[[nn.Module], Any], Callable[[Any], nn.Module]]] = {
    "list": (lambda base: [base], lambda held: held[0]),
    "dictionary": (lambda base: {"base": base}, lambda held: held["base"]),
    "partial": (lambda base: partial(lambda held: held, base), lambda held: held()),
    "closure": (lambda base: lambda: base, lambda held: held()),
}


@pytest.mark.parametrize("how", HELD_WITHOUT_VALUES)
def test_a_module_without_values_may_be_held(how: str) -> None:
    """It was read as if it had some."""
    model, x = Ensemble(*HELD_WITHOUT_VALUES[how]).eval(), torch.randn(4, 5)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert slim.weights["0_weight"].shape == (2, 8, 5)
    assert graphprune.verify(model, slim, plan, x).passed
