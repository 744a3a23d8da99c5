"""Tensors that forward keeps between calls, and makes anew for inputs of another size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune


def _table(steps: int, width: int) -> Tensor:
    return torch.sin(torch.arange(steps)[:, None] * torch.arange(1, width + 1)).double()[None]


class Extended(nn.Module):
    """Adds a table that a method of its own makes as long as inputs are. [n, t, width] -> [n, t, width]"""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.table: Tensor | None = None

    def extend(self, steps: int) -> None:
        if self.table is None or self.table.size(1) < steps:
            self.table = _table(steps, self.width)

    def forward(self, x: Tensor) -> Tensor:
        self.extend(x.size(1))
        assert self.table is not None
        return x + self.table[:, : x.size(1)]


class Registered(Extended):
    """The same with a buffer."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        del self.table
        self.register_buffer("table", torch.zeros(1, 1, width), persistent=False)

    def extend(self, steps: int) -> None:
        assert self.table is not None
        if steps > self.table.shape[1]:
            self.register_buffer("table", _table(steps, self.width), persistent=False)


class Counted(Extended):
    """The same by a number that says how long the table is."""

    steps = 0

    def extend(self, steps: int) -> None:
        if steps > self.steps:
            self.steps = steps
            self.table = _table(steps, self.width)


class Named(Extended):
    """The same, asked for by the text of the length, and set by name."""

    known = ""

    def extend(self, steps: int) -> None:
        if self.known != f"{steps} steps":
            self.known = f"{steps} steps"
            setattr(self, "table", _table(steps, self.width))  # noqa: B010


class OnDevice(Extended):
    """The same by a tuple of the length and the device."""

    known: Any = None

    def forward(self, x: Tensor) -> Tensor:
        key = x.size(1), str(x.device)
        if self.known != key:
            self.known = key
            self.table = _table(x.size(1), self.width)
        assert self.table is not None
        return x + self.table


class Inner(Extended):
    """The same in a module within."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.inner: Any = nn.Module()
        self.inner.register_buffer("table", None)

    def forward(self, x: Tensor) -> Tensor:
        longest = max(x.size(1), 0 if self.inner.table is None else self.inner.table.size(1))
        if self.inner.table is None or longest > len(self.inner.table[0]):
            made = _table(longest, self.width)
            self.inner.register_buffer("table", made)
        found: Tensor = x + self.inner.table[:, : x.size(1)]
        return found


class Network(nn.Module):
    """A part of 16 channels between two layers. [n, t, 5] -> [n, t, 3]"""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.enter, self.part, self.hidden = nn.Linear(5, 16), part, nn.Linear(16, 12)
        self.leave = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.leave(self.hidden(self.part(self.enter(x))).relu())
        return found


@pytest.mark.parametrize("kind", [Extended, Registered, Counted, Named, OnDevice, Inner])
def test_a_model_that_ran_still_takes_longer_inputs(kind: type[Extended]) -> None:
    model = Network(kind(16)).double().eval()
    with torch.no_grad():
        model.hidden.weight[::2], model.hidden.bias[::2] = 0, 0  # the units that go add nothing
        model(torch.randn(2, 4, 5).double())
    slim = graphprune.prune_model(model, 0.5, torch.randn(2, 4, 5).double())
    longer = torch.randn(2, 9, 5).double()
    assert slim.hidden.out_features == 6
    torch.testing.assert_close(slim(longer), model(longer), rtol=1e-10, atol=1e-12)


def test_the_reason_names_the_tensor_and_where_it_is_used() -> None:
    model, x = Network(Extended(16)).double().eval(), torch.randn(2, 4, 5).double()
    model(x)
    reason = next(f.reason for f in graphprune.trace(model, x).frozen if f.axis == "enter.weight[0]")
    assert reason.startswith("part.table is made anew by forward for inputs of another size, at ")
    assert "x + self.table[:, : x.size(1)]" in reason


class Normalized(nn.Module):
    """Batch norm by hand, with averages in attributes that it checks the size of. [n, t, width] -> [n, t, width]"""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mean, self.variance = torch.rand(1, width).double(), torch.rand(1, width).double() + 0.5

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-1] == self.mean.shape[-1]
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.flatten(0, 1).mean(0, keepdim=True)
        return (x - self.mean) / self.variance


class Averaged(nn.Module):
    """Normalizes with averages that are set anew, by way of local names. [n, t, width] -> [n, t, width]"""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.rand(width).double())

    def forward(self, x: Tensor) -> Tensor:
        mean = self.mean
        if self.training:
            mean = 0.9 * mean + 0.1 * x.flatten(0, 1).mean(0)
        self.mean = mean
        return x - mean


class Table(nn.Module):
    """Adds a table that it made in the beginning, and refuses inputs that are longer. [n, t, width] -> [n, t, width]"""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("table", _table(8, width))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] > self.table.shape[1]:
            raise ValueError("too long")
        return x + self.table[:, : x.shape[1]]


class Once(nn.Module):
    """Makes a vector at its first call, and never again. [n, t, width] -> [n, t, width]"""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.factors: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.factors is None:
            self.factors = torch.ones(x.shape[-1]).double()
        return x * self.factors


class OnceAsked(Once):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        del self.factors

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "factors"):
            self.register_buffer("factors", torch.ones(x.shape[-1]).double())
        return x * self.factors


class OnceNamed(OnceAsked):
    def forward(self, x: Tensor) -> Tensor:
        self.factors = torch.ones(x.shape[-1]).double() if getattr(self, "factors", None) is None else self.factors
        return x * self.factors


@pytest.mark.parametrize("kind", [Once, OnceAsked, OnceNamed])
def test_what_an_earlier_run_made_once_follows(kind: type[nn.Module]) -> None:
    model, x = Network(kind(16)).double().eval(), torch.randn(2, 4, 5).double()
    model(x)
    graph = graphprune.trace(model, x)
    plan = graph.plan(0.5)
    slim = plan.apply(model)
    assert slim.enter.out_features == 8
    assert graphprune.verify(model, slim, plan, x).passed


class Kept(nn.Module):
    """Has a method of the name of a list's, which is called by hand. [n, t, width] -> [n, t, width]"""

    scale: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(width).double())
        self.kept: list[Tensor] = []

    def clear(self) -> None:
        self.scale = torch.ones(16).double()

    def forward(self, x: Tensor) -> Tensor:
        self.kept.clear()
        return x * self.scale


class Cleared(Kept):
    def forward(self, x: Tensor) -> Tensor:
        self.kept.clear()
        self.clear()
        return x * self.scale


class ClearedByClass(Kept):
    def forward(self, x: Tensor) -> Tensor:
        self.__class__.clear(self)
        return x * self.scale


class ClearedByBase(Kept):
    def forward(self, x: Tensor) -> Tensor:
        super().clear()
        return x * self.scale


class ClearedByAnotherName(Kept):
    def forward(self, x: Tensor) -> Tensor:
        this = self
        this.clear()
        return x * self.scale


@pytest.mark.parametrize(
    ("kind", "width"), [(Kept, 8), (Cleared, 16), (ClearedByClass, 16), (ClearedByBase, 16), (ClearedByAnotherName, 16)]
)
def test_methods_of_what_an_attribute_holds_are_not_those_of_the_class(kind: type[Kept], width: int) -> None:
    model, x = Network(kind(16)).double().eval(), torch.randn(2, 4, 5).double()
    assert graphprune.trace(model, x).plan(0.5).apply(model).enter.out_features == width


@pytest.mark.parametrize("kind", [Normalized, Averaged, Table])
def test_what_is_not_made_anew_follows(kind: type[nn.Module]) -> None:
    model, x = Network(kind(16)).double().eval(), torch.randn(2, 4, 5).double()
    graph = graphprune.trace(model, x)
    plan = graph.plan(0.5)
    slim = plan.apply(model)
    assert slim.enter.out_features == 8
    assert graphprune.verify(model, slim, plan, x).passed


class Spiking(nn.Module):
    """A state without entries until it first sees an input, as snntorch's neurons have."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("state", torch.zeros(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.state = torch.zeros_like(self.state)
        for _ in range(2):
            if self.state.shape != x.shape:
                self.state = torch.zeros_like(x)
            self.state = 0.9 * self.state + x
        return self.state.sigmoid()


def test_a_state_that_has_no_entries_yet_holds_no_channels() -> None:
    model, x = Network(Spiking(16)).double().eval(), torch.randn(2, 4, 5).double()
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert slim.enter.out_features == 8
    assert graphprune.verify(model, slim, plan, x).passed
    assert slim(x[:1]).shape == model(x[:1]).shape
