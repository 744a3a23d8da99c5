"""Where ``int(size)`` and ``type(size)`` keep what they are sizes of: in what files, and in what functions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.tracing.size_tracking.name_uses import uses_of_name


def doubled(factor: float, y: Tensor) -> Tensor:
    return y * factor if type(y.shape[1]) is int else y


class Doubling:
    """Called itself, and by its method."""

    def __call__(self, y: Tensor) -> Tensor:
        return self.double(y)

    def double(self, y: Tensor) -> Tensor:
        return y * 2 if type(y.shape[1]) is int else y


def within(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda y: function(y)


class Holding(nn.Module):
    """Calls what it holds. [n, 5] -> [n, 3]"""

    def __init__(self, held: Any, call: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 16), nn.Linear(16, 3)
        self.held, self.call = held, call

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.leave(self.call(self.held, self.enter(x)))
        return found


def called(held: Any, y: Tensor) -> Tensor:
    return held(y)  # type: ignore[no-any-return]


def double(y: Tensor) -> Tensor:
    return y * 2 if type(y.shape[1]) is int else y


HELD: dict[str, tuple[Any, Callable[[Any, Tensor], Tensor]]] = {
    "function": (double, called),
    "lambda": (lambda y: y * 2 if type(y.shape[1]) is int else y, called),
    "partial": (partial(doubled, 2.0), called),
    "object": (Doubling(), called),
    "partial of an object": (partial(Doubling()), called),
    "bound method": (Doubling().double, called),
    "closure": (within(double), called),
    "list": ([double], lambda held, y: held[0](y)),
    "tuple": ((double,), lambda held, y: held[0](y)),
    "dictionaries": ({"a": {"b": double}}, lambda held, y: held["a"]["b"](y)),
    "attribute": (SimpleNamespace(double=double), lambda held, y: held.double(y)),
}


def checked(model: nn.Module) -> graphprune.Plan:
    """A plan of half of the channels, verified."""
    x = torch.randn(4, 5)
    plan = graphprune.trace(model.eval(), x).plan(0.5)
    check = graphprune.verify(model, plan.apply(model), plan, x)
    assert check.passed, check
    return plan


@pytest.mark.parametrize("held", HELD)
def test_sizes_have_the_type_of_integers_in_functions_that_a_model_holds(held: str) -> None:
    """Another way than the model's was traced."""
    assert checked(Holding(*HELD[held])).kept["enter.weight"][0].size == 8


def around(function: Callable[[Tensor], Tensor]) -> type[nn.Module]:
    """A class whose ``forward`` has a function in its closure."""

    class Around(Holding):
        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.leave(function(self.enter(x)))
            return found

    return Around


class ByDefault(Holding):
    """Has a function in a default."""

    def forward(self, x: Tensor, function: Callable[[Tensor], Tensor] = HELD["lambda"][0]) -> Tensor:
        found: Tensor = self.leave(function(self.enter(x)))
        return found


class OfClass(Holding):
    """Has functions in a table of its class."""

    table: ClassVar = {"lambda": HELD["lambda"][0]}

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.leave(self.table["lambda"](self.enter(x)))
        return found


class Doubled(torch.autograd.Function):
    """Is reached by the name of its class."""

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        return y * 2 if type(y.shape[1]) is int else y.clone()


@lru_cache
def factor(width: int) -> int:
    return 2 if type(width) is int else 1


DOUBLING = Doubling()
OUTSIDE: dict[str, type[nn.Module]] = {
    "closure": around(HELD["lambda"][0]),
    "closure of a closure": around(within(HELD["lambda"][0])),
    "partial": around(partial(doubled, 2.0)),
    "object": around(Doubling()),
    "bound method": around(Doubling().double),
    "default": ByDefault,
    "table of a class": OfClass,
    "table of a file": around(lambda y: HELD["dictionaries"][0]["a"]["b"](y)),
    "object of a file": around(lambda y: DOUBLING.double(y)),
    "object made there": around(lambda y: Doubling()(y)),
    "class": around(lambda y: Doubled.apply(y)),  # type: ignore[no-untyped-call, no-any-return]
    "cached function": around(lambda y: y * factor(y.shape[1])),
}


@pytest.mark.parametrize("outside", OUTSIDE)
def test_sizes_have_the_type_of_integers_in_functions_that_a_program_finds(outside: str) -> None:
    """Another way than the model's was traced, and the slim model computed something else."""
    model = OUTSIDE[outside](None, called)
    assert checked(model).kept["enter.weight"][0].size == 8


def test_sizes_have_the_type_of_integers_in_hooks() -> None:
    model = Holding(None, lambda held, y: y)
    model.enter.register_forward_hook(lambda module, given, y: double(y))
    assert checked(model).kept["enter.weight"][0].size == 8


FILE = """
import numpy as np
import torch
from torch import nn

def beside(type, n):
    return np.zeros(n, dtype=int) if type == "whole" else None

class Net(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        assert type(width) is int or width.dtype == int
        self.enter, self.leave = nn.Linear(5, width), nn.Linear(width, 3)

    def forward(self, x):
        y = self.enter(x)
        half = int(y.shape[-1] / 2)
        return self.leave(torch.cat([y[:, half:], y[:, :half]], 1) * (2 if isinstance(half, int) else 1))
"""


def test_functions_that_do_not_run_may_use_the_names_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "name_uses_beside.py").write_text(FILE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "name_uses_beside", raising=False)
    assert checked(import_module("name_uses_beside").Net()).kept["enter.weight"][0].size == 8


COMPUTED = """
import operator
import torch
from torch import nn

def shift_index(y):
    return y + torch.arange(len(y), dtype=int)[:, None]

class Shift:
    def __init__(self, kind): self.kind = kind
    def __call__(self, y): return getattr(self, "shift_" + self.kind)(y)
    def shift_index(self, y): return shift_index(y)

SHIFT = Shift("index")

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.leave, self.kind = nn.Linear(5, 16), nn.Linear(16, 3), "index"

    def shift_index(self, y): return y + torch.zeros(1, dtype=int)

    def shift(self, y): return {shift}

    def forward(self, x):
        y = self.enter(x)
        half = int(y.shape[-1] / 2)
        return self.leave(self.shift(torch.cat([y[:, half:], y[:, :half]], 1)))
"""
LOOK_UPS = [
    "getattr(self, 'shift_' + self.kind)(y)",
    "getattr(self, f'shift_{self.kind}')(y)",
    "globals()['shift_' + self.kind](y)",
    "eval('shift_' + self.kind)(y)",
    "vars(type(self))['shift_' + self.kind](self, y)",
    "type(self).__dict__['shift_' + self.kind](self, y)",
    "self.__getattribute__('shift_' + self.kind)(y)",
    "operator.methodcaller('shift_' + self.kind, y)(self)",
    "SHIFT(y)",
    "Shift('index')(y)",
]


@pytest.mark.parametrize("shift", LOOK_UPS)
def test_functions_may_be_reached_by_names_that_are_put_together(
    shift: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch was given another type as ``dtype=``, and the trace failed."""
    (tmp_path / "name_uses_computed.py").write_text(COMPUTED.replace("{shift}", shift))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "name_uses_computed", raising=False)
    graphprune.trace(import_module("name_uses_computed").Net().eval(), torch.randn(4, 5))


RUN = "def forward(self, x): return helper(x)\n"
USES: list[tuple[str, bool]] = [
    ("def helper(x): return int(x)", True),
    ("def helper(x): return int(x)\ndef other(x): return np.zeros(x, dtype=int)", True),
    ("def helper(x): return other(int(x))\ndef other(x): return np.zeros(x, dtype=int)", False),
    ("def helper(x): return getattr(m, 'other')(int(x))\ndef other(x): return np.zeros(x, dtype=int)", False),
    ("def helper(x): return ALL['a'](int(x))\ndef other(x): return x.astype(int)\nALL = {'a': other}", False),
    ("def helper(x): return int(x)\n@register\ndef other(x): return x.astype(int)", False),
    ("def helper(x): return int(x)\ndef other(x): return x.astype(int)\nregister('a', other)", False),
    ("def helper(x): return int(x)\ndef other(): return x.astype(int)\nif __name__ == '__main__':\n    other()", True),
    ("def helper(x): return int(x)\nregister(lambda x: x.astype(int))", False),
    ("def helper(x): return int(x)\nclass Kind:\n    def __len__(self): return self.x.astype(int)", False),
    ("def helper(x): return int(x)\nclass Kind:\n    def __init__(self): self.x = np.zeros(3, dtype=int)", True),
    ("def helper(x): return Kind(int(x))\nclass Kind:\n    def __init__(self, x): self.x = x.astype(int)", False),
    ("def helper(x): return Sub(int(x))\nclass Kind:\n    def __init__(self, x): x.astype(int)\nSub = Kind", False),
    ("def helper(x): return int(getattr(m, n))\ndef other(x): return np.zeros(x, dtype=int)", False),
    ("def helper(x): return int(getattr(m, 'n', x))\ndef other(x): return np.zeros(x, dtype=int)", True),
    ("def helper(x): return int(x)\ndef other(x): return np.zeros(x, dtype=int), vars(x)", True),
    ("def helper(x): return int(x)\nprint(vars(x))\ndef other(x): return np.zeros(x, dtype=int)", True),
    ("def helper(x): return int(x)\ndef forward(self): return self.x.astype(int)", False),
]


@pytest.mark.parametrize(("text", "allowed"), USES)
def test_uses_in_functions_that_may_run_count(text: str, allowed: bool) -> None:
    assert uses_of_name(RUN + text, "int").allow_another(["forward"]) is allowed
    assert not uses_of_name(RUN + text, "int").allow_another(None) or text is USES[0][0]


ASKS = "def ask(x): return type(x)\n"
SCOPES: list[tuple[str, bool]] = [
    ("def f(type): return type == 'relu'", True),
    ("def f(*, type=None): return g(type)", True),
    ("def f(**type): return g(type)", True),
    ("def f(x):\n    type = x\n    return g(type)", True),
    ("def f(x):\n    for type, y in x: g(type)", True),
    ("def f(x):\n    with x as type: g(type)", True),
    ("def f(x):\n    from y import type\n    return g(type)", True),
    ("def f(x):\n    def type(): pass\n    return g(type)", True),
    ("def f(x): return [g(type) for type in x]", True),
    ("def f(type): return lambda: g(type)", True),
    ("f = lambda type: g(type)", True),
    ("def f(x): return issubclass(x, type) or issubclass(x, (str, type))", True),
    ("def f(x): return issubclass(type, x)", False),
    ("def f(x): return g(type)", False),
    ("def f(x):\n    global type\n    type = x\n    return g(type)", False),
    ("def f(x):\n    def g(type): return type\n    return g(type)", False),
    ("def f(x): return [y for type in g(type)]", False),
    ("def f(x, g=lambda type: 3): return x + g(type)", False),
    ("def f(x):\n    class A:\n        type = 3\n        def g(self): return h(type)", False),
    ("class A:\n    type: str = 'a'\n    def f(self): return self.type", True),
]


@pytest.mark.parametrize(("text", "allowed"), SCOPES)
def test_parameters_and_variables_of_the_name_are_something_else(text: str, allowed: bool) -> None:
    assert uses_of_name(ASKS + text, "type").allow_another(None) is allowed


@pytest.mark.parametrize(("names", "allowed"), [(["f"], False), (["ask"], True), ([], True)])
def test_what_runs_goes_by_names(names: Iterable[str], allowed: bool) -> None:
    assert uses_of_name(ASKS + "def f(x): return g(type)", "type").allow_another(names) is allowed
