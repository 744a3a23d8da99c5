"""What programs keep outside of their models between calls: a trace leaves nothing in it."""

from __future__ import annotations

import functools
import sys
import threading
import weakref
from collections import OrderedDict, UserDict, UserList
from collections.abc import Callable
from enum import Enum
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any, ClassVar
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.tracing.may_write import may_write_to
from graphprune.tracing.side_effects import _classes

Table = Callable[[int, int], Tensor]
LONGEST = 32


def table(steps: int, width: int) -> Tensor:
    return torch.sin(torch.arange(steps).double()[:, None] * torch.arange(1, width + 1).double())[None]


def by_closure(make: Table) -> Table:
    known: dict[tuple[int, int], Tensor] = {}

    def find(*sizes: int) -> Tensor:
        if sizes not in known:
            known[sizes] = make(*sizes)
        return known[sizes]

    return find


def by_last(make: Table) -> Table:
    last: Any = None

    def find(*sizes: int) -> Tensor:
        nonlocal last
        if last is None or last.shape[1:] != sizes:
            last = make(*sizes)
        return last  # type: ignore[no-any-return]

    return find


class Remembered:
    def __init__(self, make: Table) -> None:
        self.make, self.last = make, None
        self.known: dict[int, Tensor] = {}

    def __call__(self, steps: int, width: int) -> Tensor:
        if steps not in self.known:
            self.known[steps] = self.make(steps, width)
        return self.known[steps]


class Store:
    known: ClassVar[dict[str, dict[int, Tensor]]] = {"tables": {}}
    last: Tensor | None = None
    calls = 0


def in_nested_dictionary(steps: int, width: int) -> Tensor:
    Store.calls += 1
    found = Store.known["tables"]
    if steps not in found:
        found[steps] = table(steps, width)
    return found[steps]


class Recent(OrderedDict[tuple[int, int], Tensor]):
    """Puts what was asked for last at the end, and forgets the rest."""

    def __getitem__(self, sizes: tuple[int, int]) -> Tensor:
        self.move_to_end(sizes)
        return super().__getitem__(sizes)

    def __setitem__(self, sizes: tuple[int, int], found: Tensor) -> None:
        super().__setitem__(sizes, found)
        if len(self) > 2:
            del self[next(iter(self))]


class Made(dict[tuple[int, int], Tensor]):
    """Makes what it does not have, and cannot be walked through."""

    def __missing__(self, sizes: tuple[int, int]) -> Tensor:
        return self.setdefault(sizes, table(*sizes))

    def __iter__(self) -> Any:
        raise NotImplementedError


class Slots:
    __slots__ = ("calls", "last")

    def __init__(self) -> None:
        self.last: Tensor | None = None
        self.calls = 0


def in_mapping(name: str) -> Table:
    def find(*sizes: int) -> Tensor:
        store = MAPPINGS[name]
        if sizes not in store:
            store[sizes] = table(*sizes)
        return store[sizes]  # type: ignore[no-any-return]

    return find


def in_attribute(name: str) -> Table:
    def find(steps: int, width: int) -> Tensor:
        store = OBJECTS[name]
        store.calls = getattr(store, "calls", 0) + 1
        if getattr(store, "last", None) is None or store.last.shape[1] != steps:
            store.last = table(steps, width)
        return store.last  # type: ignore[no-any-return]

    return find


MAPPINGS: dict[str, Any] = {
    "OrderedDict": OrderedDict(),
    "class of OrderedDict": Recent(),
    "UserDict": UserDict(),
}
MADE, ROWS = Made(), UserList[Tensor | None]()
OBJECTS: dict[str, Any] = {"slots": Slots(), "local": threading.local(), "SimpleNamespace": SimpleNamespace()}


def in_list(steps: int, width: int) -> Tensor:
    while len(ROWS) <= steps:
        ROWS.append(None)
    if ROWS[steps] is None:
        ROWS[steps] = table(steps, width)
    return ROWS[steps]  # type: ignore[return-value]


def in_class(steps: int, width: int) -> Tensor:
    if Store.last is None or Store.last.shape[1] != steps:
        Store.last = table(steps, width)
    return Store.last


def in_function(steps: int, width: int) -> Tensor:
    known = vars(in_function).setdefault("known", {})
    if steps not in known:
        known[steps] = table(steps, width)
    return known[steps]  # type: ignore[no-any-return]


cached = functools.lru_cache(table)
longest = functools.cache(lambda: {"table": table(LONGEST, 16)})
BY_NAME: dict[str, Any] = {"table": functools.lru_cache(table)}
closure, last, remembered = by_closure(table), by_last(table), Remembered(table)
TABLES: dict[str, Table] = {
    "lru_cache": lambda steps, width: cached(steps, width),
    "lru_cache by plain numbers": lambda steps, width: cached(int(steps), 16),
    "the longest in a dictionary": lambda steps, width: longest()["table"],
    "lru_cache in a dictionary": lambda steps, width: BY_NAME["table"](steps, width),
    "closure": lambda steps, width: closure(steps, width),
    "the last in a closure": lambda steps, width: last(steps, width),
    "object": lambda steps, width: remembered(steps, width),
    "class": in_class,
    "nested dictionary of a class": in_nested_dictionary,
    "function": in_function,
    "dictionary that makes what it has not": lambda steps, width: MADE[steps, width],
    "UserList": in_list,
    **{name: in_mapping(name) for name in MAPPINGS},
    **{name: in_attribute(name) for name in OBJECTS},
}


class Network(nn.Module):
    """Adds a table of positions to channels. [n, t, 5] -> [n, t, 3]"""

    def __init__(self, find: Table) -> None:
        super().__init__()
        self.enter, self.hidden, self.leave = nn.Linear(5, 16), nn.Linear(16, 12), nn.Linear(12, 3)
        self.find = find

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        found: Tensor = self.leave(self.hidden(y + self.find(y.shape[1], y.shape[2])[:, : y.shape[1]]).relu())
        return found


@pytest.fixture(autouse=True)
def _nothing_known() -> None:
    for found in (cached, longest, BY_NAME["table"]):
        found.cache_clear()
    remembered.known.clear()
    Store.known["tables"].clear()
    Store.last = None
    vars(in_function).clear()
    for store in (*MAPPINGS.values(), MADE, ROWS):
        store.clear()
    for store in OBJECTS.values():
        store.last = None


@pytest.mark.parametrize("ran", [False, True], ids=["new", "ran before"])
@pytest.mark.parametrize("name", TABLES)
def test_the_model_and_the_slim_one_run_at_every_length(name: str, ran: bool) -> None:
    steps = 7 if name in ("closure", "the last in a closure") and ran else 6  # what they know cannot be cleared
    model, x = Network(TABLES[name]).double().eval(), torch.randn(2, steps, 5).double()
    with torch.no_grad():
        model.hidden.weight[::2], model.hidden.bias[::2] = 0, 0  # the units that go add nothing
        if ran:
            model(x)
    graph = graphprune.trace(model, x)
    plan = graph.plan(0.5)
    slim = plan.apply(model)
    assert slim.hidden.out_features == 6
    for length in (steps, 9, 4):
        longer = torch.randn(2, length, 5).double()
        torch.testing.assert_close(model(longer), slim(longer), rtol=1e-10, atol=1e-12)
    assert graphprune.verify(model, slim, plan, x).passed


@pytest.mark.parametrize("ran", [False, True], ids=["new", "ran before"])
@pytest.mark.parametrize("keep", [functools.lru_cache, by_closure, by_last, Remembered])
def test_verify_leaves_no_table_in_float64(keep: Callable[[Table], Any], ran: bool) -> None:
    find = keep(lambda steps, width: table(steps, width).to(torch.get_default_dtype()))
    model, x = Network(find).eval(), torch.randn(2, 5, 5)
    if ran:
        model(x)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert graphprune.verify(model, slim, plan, x).passed
    assert model(x).dtype == slim(x).dtype == torch.float32


def test_counts_of_calls_are_as_before() -> None:
    model, x = Network(in_nested_dictionary).double().eval(), torch.randn(2, 6, 5).double()
    before = Store.calls
    graphprune.prune_model(model, 0.5, x)
    assert Store.calls == before
    assert not Store.known["tables"]


class Refusing:
    """Answers no question but for what it has."""

    __slots__ = ("table", "unset")

    def __init__(self) -> None:
        self.table = {1: torch.ones(1)}

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"asked for {name}")


class Unwritable(dict[str, int]):
    def __setitem__(self, name: str, value: int) -> None:
        raise TypeError("cannot be written to")

    clear = update = items = values = None  # type: ignore[assignment]


REFUSING, UNWRITABLE = Refusing(), Unwritable(one=1)
PROXY, MOCK = weakref.proxy(UNWRITABLE), MagicMock(spec=dict)


def test_objects_that_answer_in_their_own_way_are_left_alone() -> None:
    def find(steps: int, width: int) -> Tensor:
        assert REFUSING.table and PROXY["one"] == UNWRITABLE["one"] and MOCK is not None
        return table(steps, width)

    model, x = Network(find).double().eval(), torch.randn(2, 6, 5).double()
    slim = graphprune.prune_model(model, 0.5, example_inputs=x)
    assert slim.hidden.out_features == 6 and dict.__repr__(UNWRITABLE) == "{'one': 1}"


Widths = dict[int, int]


def divided(known: Widths, width: int, heads: int) -> int:
    if width not in known:
        known[width] = width // heads
    return known[width]


class OfClass:
    known: ClassVar[Widths] = {}

    def __call__(self, width: int, heads: int) -> int:
        return divided(self.known, width, heads)

    @classmethod
    def find(cls, width: int, heads: int) -> int:
        return divided(cls.known, width, heads)


class Inheriting(OfClass):
    __slots__ = ("ratio",)


class Kind(type):
    known: ClassVar[Widths] = {}


class OfKind(metaclass=Kind):
    @classmethod
    def find(cls, width: int, heads: int) -> int:
        return divided(cls.known, width, heads)


class OfEnum(Enum):
    TABLE: Widths = {}  # noqa: RUF012

    def find(self, width: int, heads: int) -> int:
        return divided(self.value, width, heads)


MODULE: Any = ModuleType("widths_of_a_test")
MODULE.known = {}


def loaded(width: int, heads: int) -> int:
    return divided(sys.modules["widths_of_a_test"].known, width, heads)


def imported(width: int, heads: int) -> int:
    import widths_of_a_test

    return divided(widths_of_a_test.known, width, heads)


OWN: Widths = {}


def by_text(width: int, heads: int) -> int:
    return divided(globals()["OWN"], width, heads)


class Heads(nn.Module):
    """Attention of 4 heads, whose width it looks up. [n, steps, 8] -> [n, steps, 4]"""

    def __init__(self, find: Callable[[int, int], int]) -> None:
        super().__init__()
        self.query, self.value, self.leave = nn.Linear(8, 32), nn.Linear(8, 32), nn.Linear(32, 4)
        self.find = find

    def forward(self, x: Tensor) -> Tensor:
        query, value = (self.split(layer(x)) for layer in (self.query, self.value))
        out = (query @ query.mT).softmax(-1) @ value
        left: Tensor = self.leave(out.transpose(1, 2).flatten(2))
        return left

    def split(self, y: Tensor) -> Tensor:
        return y.view(*y.shape[:2], 4, self.find(y.shape[-1], 4)).transpose(1, 2)


FINDERS: dict[str, tuple[Callable[[int, int], int], Widths]] = {
    "class of an object": (OfClass(), OfClass.known),
    "base of its class": (Inheriting(), OfClass.known),
    "class method": (OfClass.find, OfClass.known),
    "inherited class method": (Inheriting.find, OfClass.known),
    "class of a class": (OfKind.find, Kind.known),
    "enumeration": (OfEnum.TABLE.find, OfEnum.TABLE.value),
    "loaded module": (loaded, MODULE.known),
    "import in a function": (imported, MODULE.known),
    "globals()": (by_text, OWN),
}


@pytest.mark.parametrize("place", FINDERS)
def test_a_trace_leaves_no_sizes_where_helpers_keep_numbers(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next trace compared with those that it found there, and every channel was kept."""
    monkeypatch.setitem(sys.modules, MODULE.__name__, MODULE)
    find, known = FINDERS[place]
    model, x = Heads(find).eval(), torch.randn(1, 5, 8)
    plans = [graphprune.trace(model, x).plan(0.5) for _ in range(2)]
    assert not known
    assert plans[0].entries == plans[1].entries == (708, 356)


def asked(width: int, heads: int) -> int:
    return divided(OWN, width, heads)


def taken(width: int, heads: int) -> int:
    found = OWN.get(width)
    if found is None:
        found = OWN[width] = width // heads
    return found


def by_default(width: int, heads: int) -> int:
    return OWN.setdefault(width, width // heads)


@pytest.mark.parametrize("find", [OfClass(), asked, taken, by_default])
def test_numbers_that_a_run_kept_by_size_hold_no_channels(find: Callable[[int, int], int]) -> None:
    for known in (OWN, OfClass.known):
        known.clear()
    model, x = Heads(find).eval(), torch.randn(1, 5, 8)
    model(x)
    plan = graphprune.trace(model, x).plan(0.5)
    assert plan.entries == (708, 356) and graphprune.verify(model, plan.apply(model), plan, x).passed
    assert {**OWN, **OfClass.known} == {32: 8}


def settings(width: int, heads: int) -> int:
    return OWN[width]


def overridden(width: int, heads: int) -> int:
    if width not in OWN:
        OWN[width] = width // 16
    return OWN[width]


def without_making(width: int, heads: int) -> int:
    return OWN.get(width, 2)


def by_all(width: int, heads: int) -> int:
    return dict(OWN).get(width, 2)


@pytest.mark.parametrize("find", [settings, overridden, without_making, by_all])
def test_settings_by_size_are_read(find: Callable[[int, int], int]) -> None:
    """A program that starts with an empty table would take 2 for 8."""
    OWN.clear()
    OWN[32] = 8
    model = Heads(find).eval()
    with pytest.warns(graphprune.NothingRemovedWarning):
        assert graphprune.trace(model, torch.randn(1, 5, 8)).plan(0.5).entries == (708, 708)
    assert OWN == {32: 8}


CALLS, RATES, LAST = torch.zeros(1), torch.ones(4, 2, dtype=torch.long), torch.zeros(4)
FIRST, SECOND, OUT = torch.zeros(2), torch.zeros(3), torch.zeros(3)


class Writing(nn.Module):
    """Writes to tensors of its file. [n, 5] -> [n, 3]"""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x).relu()
        CALLS.add_(1)
        RATES.T[1, 2:] += 1
        torch.add(RATES[0], 2, out=RATES[1])
        torch._foreach_add_([FIRST, SECOND], 1)
        torch.mul(SECOND, 2, out=OUT)
        LAST.copy_(y.sum(1).detach())
        return self.leave(y) + (CALLS * 0)


def test_tensors_outside_that_forward_writes_to_are_as_before() -> None:
    model, x = Writing().eval(), torch.randn(4, 5)
    model(x)
    outside = (CALLS, RATES, LAST, FIRST, SECOND, OUT)
    before = [tensor.clone() for tensor in outside]
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert graphprune.verify(model, slim, plan, x).passed
    assert all(map(torch.equal, outside, before))


METERS = {f"layer{number}": SimpleNamespace(count=0, last=[]) for number in range(900)}
DRAWN, ROLLED, COUNTS = torch.Generator().manual_seed(0), np.random.default_rng(0), np.zeros(2)


class Metered(nn.Module):
    """Writes to the last of many objects, to an array, and draws from generators that its file has."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x).relu()
        meter = METERS["layer899"]
        meter.count += 1
        meter.last.append(y)
        COUNTS[0] += 1
        return self.leave(y) + torch.randn(len(x), 1, generator=DRAWN) + float(ROLLED.normal())


def test_many_objects_arrays_and_generators_outside_are_as_before() -> None:
    model, x = Metered().eval(), torch.randn(4, 5)
    before = DRAWN.get_state(), ROLLED.bit_generator.state
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert graphprune.verify(model, slim, plan, x).passed and slim.enter.out_features == 4
    assert torch.equal(DRAWN.get_state(), before[0]) and ROLLED.bit_generator.state == before[1]
    assert COUNTS.tolist() == [0, 0] and METERS["layer899"].count == 0 and not METERS["layer899"].last


BITS: dict[str, Any] = {}


class Bits(nn.Module):
    """Draws from generators of numpy, its own and one of its file. [n, 5] -> [n, 3]"""

    def __init__(self, own: Any) -> None:
        super().__init__()
        self.enter, self.leave, self.own = nn.Linear(5, 8), nn.Linear(8, 3), own

    def forward(self, x: Tensor) -> Tensor:
        noise = sum(drawn_from(one) for one in (self.own, BITS["outside"]))
        return self.leave(self.enter(x).relu()) + noise


def drawn_from(generator: Any) -> float:
    if isinstance(generator, np.random.BitGenerator):
        return int(generator.random_raw()) % 100 / 100
    return float(generator.normal())


@pytest.mark.parametrize(
    "make",
    [
        np.random.PCG64,
        np.random.MT19937,
        np.random.SFC64,
        np.random.Philox,
        np.random.default_rng,
        np.random.RandomState,
        lambda seed: np.random.RandomState(np.random.PCG64(seed)),
    ],
)
def test_generators_of_numpy_go_on_as_if_nothing_was_drawn(make: Any) -> None:
    BITS["outside"], (outside, own) = make(1), (make(1), make(2))
    model, x = Bits(make(2)).eval(), torch.randn(8, 5)
    graph = graphprune.trace(model, x)
    plan = graph.plan(0.5, importance="wanda", calibration=[x, x])
    slim = plan.apply(model)
    assert graphprune.verify(model, slim, plan, x).passed and slim.enter.out_features == 4
    graphprune.repair(slim, model, plan, [x, x])
    assert drawn_from(model.own) == drawn_from(slim.own) == drawn_from(own)
    assert drawn_from(BITS["outside"]) == drawn_from(outside)


def test_what_is_followed_first_does_not_depend_on_addresses() -> None:
    names = [f"method_{number:03}" for number in range(600)]
    calls = "\n".join(f"        x = self.{name}(x)" for name in names)
    methods = "\n".join(f"    def {name}(self, x): return x" for name in reversed(names))
    program = f"class Long(nn.Module):\n    def forward(self, x):\n{calls}\n        return x\n{methods}"
    found: dict[str, Any] = {"nn": nn, "__name__": "has_a_long_class"}
    exec(program, found)
    reached = [value.__name__ for value in may_write_to([found["Long"]], []) if isinstance(value, FunctionType)]
    assert reached == ["forward", *names[: len(reached) - 1]] and len(reached) < 500


def test_classes_are_followed_in_the_order_of_modules() -> None:
    kinds = [type(f"Kind{number}", (nn.Module,), {"__module__": "has_kinds"}) for number in range(100)]
    assert _classes([(str(number), kind()) for number, kind in enumerate(kinds)]) == kinds
