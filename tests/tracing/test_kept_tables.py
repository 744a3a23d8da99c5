"""Tables that a model keeps by size do not decide what is pruned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import graphprune


class Net(nn.Module):
    """Two linear layers with something between them."""

    def __init__(self, between: Callable[[Net, Tensor], Tensor], tables: dict[Any, Tensor] | None = None) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 8), nn.Linear(8, 3)
        self.tables: dict[Any, Tensor] = tables or {}
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self, self.first(x)))


def asked(net: Net, x: Tensor) -> Tensor:
    key = (x.shape[0], x.shape[-1])
    if key not in net.tables:
        net.tables[key] = torch.ones(key)
    return x * net.tables[key]


def gotten(net: Net, x: Tensor) -> Tensor:
    table = net.tables.get(x.shape[-1])
    if table is None:
        table = net.tables[x.shape[-1]] = torch.ones(x.shape[-1])
    return x + table


def positions(net: Net, x: Tensor) -> Tensor:
    if len(x) not in net.tables:
        net.tables[len(x)] = torch.arange(len(x), dtype=x.dtype)[:, None]
    return x + net.tables[len(x)]


def waves(net: Net, x: Tensor) -> Tensor:
    """Worked out in the default type, which is another one while models are compared."""
    if len(x) not in net.tables:
        net.tables[len(x)] = torch.arange(len(x)).div(3).sin()[:, None]
    return x + net.tables[len(x)]


def chosen(net: Net, x: Tensor) -> Tensor:
    """No cache: only some widths have a table."""
    return x * net.tables[x.shape[-1]] if x.shape[-1] in net.tables else x


def taken(net: Net, x: Tensor) -> Tensor:
    return x * net.tables[len(x)]


@pytest.mark.parametrize("between", [asked, gotten, positions, waves])
def test_a_model_that_has_run_is_pruned_like_one_that_has_not(between: Callable[[Net, Tensor], Tensor]) -> None:
    net, x = Net(between), torch.randn(2, 5)
    cold = graphprune.trace(net, x).plan(0.5)
    assert net.tables == {}
    net(x)
    before = dict(net.tables)
    hot = graphprune.trace(net, x).plan(0.5)
    slim = hot.apply(net)
    assert hot.to_json() == cold.to_json()
    assert slim.first.out_features == 4
    assert graphprune.verify(net, slim, hot, x).passed
    assert net.tables == before and type(net.tables) is dict


KEPT: dict[Any, Tensor] = {}


class Store:
    """Keeps tables in its class, in an instance, and in a dictionary of several."""

    known: ClassVar[dict[Any, Tensor]] = {}
    several: ClassVar[dict[str, dict[Any, Tensor]]] = {"waves": {}}

    def __init__(self) -> None:
        self.own: dict[Any, Tensor] = {}


STORE = Store()


def in_closure() -> Callable[[], dict[Any, Tensor]]:
    known: dict[Any, Tensor] = {}
    return lambda: known


closure = in_closure()


def by_default(known: dict[Any, Tensor] = {}) -> dict[Any, Tensor]:  # noqa: B006
    return known


def by_keyword(*, known: dict[Any, Tensor] = {}) -> dict[Any, Tensor]:  # noqa: B006
    return known


def by_attribute() -> dict[Any, Tensor]:
    return by_attribute.known  # type: ignore[attr-defined, no-any-return]


by_attribute.known = {}  # type: ignore[attr-defined]
OUTSIDE: dict[str, Callable[[], dict[Any, Tensor]]] = {
    "global": lambda: KEPT,
    "class": lambda: Store.known,
    "object": lambda: STORE.own,
    "dictionary": lambda: Store.several["waves"],
    "closure": lambda: closure(),
    "default": by_default,
    "keyword default": by_keyword,
    "attribute of a function": by_attribute,
}


def twos(x: Tensor, table: dict[Any, Tensor]) -> Tensor:
    width = x.shape[-1]
    if width not in table:
        table[width] = torch.full((width,), 2.0)
    return x * table[width]


def rows(x: Tensor, table: dict[Any, Tensor]) -> Tensor:
    """Worked out in the default type, which is another one while models are compared."""
    if table.get(len(x)) is None:
        table[len(x)] = torch.arange(len(x)).div(3).sin()[:, None]
    return x + table[len(x)]


@pytest.mark.parametrize(("keep", "key"), [(twos, 8), (rows, 2)])
@pytest.mark.parametrize("where", OUTSIDE)
def test_tables_outside_of_the_model_are_like_those_in_it(
    where: str, keep: Callable[[Tensor, dict[Any, Tensor]], Tensor], key: int
) -> None:
    """A model that had run kept all of its channels, and no plan of it was verified."""
    find = OUTSIDE[where]
    find().clear()
    net, x = Net(lambda net, x: keep(x, find())).eval(), torch.randn(2, 5)
    cold = graphprune.trace(net, x).plan(0.5)
    slim = cold.apply(net)
    net(x)
    before = find()
    assert list(before) == [key]
    assert graphprune.verify(net, slim, cold, x).passed
    hot = graphprune.trace(net, x).plan(0.5)
    assert hot.to_json() == cold.to_json()
    assert graphprune.verify(net, hot.apply(net), hot, x).passed
    assert find() is before and list(before) == [key] and type(before) is dict


CHOSEN = {8: torch.full((8,), 2.0)}


def chosen_outside(net: Net, x: Tensor) -> Tensor:
    return x * CHOSEN[x.shape[-1]] if x.shape[-1] in CHOSEN else x


def test_tables_outside_of_the_model_that_are_no_caches_are_read() -> None:
    net, x = Net(chosen_outside), torch.randn(2, 5)
    with pytest.raises(graphprune.PlanError, match=r"first.weight\[0\]: meets a constant tensor"):
        graphprune.trace(net, x).plan(0.5)


TABLES = {8: torch.full((8,), 2.0), 2: torch.full((1,), 3.0)}


def test_tables_that_are_no_caches_are_read() -> None:
    net, x = Net(taken, dict(TABLES)), torch.randn(2, 5)
    plan = graphprune.trace(net, x).plan(0.5)
    slim = plan.apply(net)
    assert graphprune.verify(net, slim, plan, x).passed
    assert slim.first.out_features == 4


def test_a_program_that_asks_and_does_not_make_an_entry_is_run_with_what_there_is() -> None:
    net, x = Net(chosen, dict(TABLES)), torch.randn(2, 5)
    with pytest.raises(graphprune.PlanError, match=r"first.weight\[0\]: meets a constant tensor"):
        graphprune.trace(net, x).plan(0.5)


class Scaled(nn.Module):
    """Factors that are worked out from a weight, kept under a key."""

    def __init__(self, key: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 8), nn.Linear(8, 3)
        self.logs = nn.Parameter(torch.randn(8))
        self.key = key
        self.tables: dict[Any, Tensor] = {}

    def factors(self, x: Tensor) -> Tensor:
        key = self.key(x)
        if key not in self.tables:
            self.tables[key] = self.logs.exp()
        return self.tables[key]

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x) * self.factors(x))


@pytest.mark.parametrize("key", [len, lambda x: str(x.device), lambda x: x.device, lambda x: (x.device, len(x))])
def test_a_slim_model_does_not_keep_what_the_dense_one_worked_out(key: Callable[[Tensor], Any]) -> None:
    net, x = Scaled(key).eval(), torch.randn(2, 5)
    net(x)
    plan = graphprune.trace(net, x).plan(0.5)
    slim = plan.apply(net)
    left = plan.kept["first.weight"][0]
    inner = nn.functional.linear(x, net.first.weight[left], net.first.bias[left]) * net.logs[left].exp()
    torch.testing.assert_close(slim(x), nn.functional.linear(inner, net.second.weight[:, left], net.second.bias))
    assert net.tables[key(x)].shape == (8,)


class Averaged(nn.Module):
    """A table in which every call changes what stood there: no cache."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 8), nn.Linear(8, 3)
        self.tables = {2: torch.zeros(1)}

    def forward(self, x: Tensor) -> Tensor:
        before = self.tables[len(x)]
        self.tables[len(x)] = before * 0.9 + 0.1
        return self.second(self.first(x).relu()) + before


def test_a_table_whose_entries_depend_on_earlier_ones_stays() -> None:
    net, x = Averaged().eval(), torch.randn(2, 5)
    slim: Any = graphprune.trace(net, x).plan(0.5).apply(net)
    assert slim.tables == {2: torch.zeros(1)}


GAINS = {8: torch.tensor(0.5), 16: torch.tensor(0.25)}


class Weighed(nn.Module):
    """``used`` reads all of a table: of its file, or of the model."""

    def __init__(self, used: Callable[[Any, Tensor, Any], Tensor], own: bool) -> None:
        super().__init__()
        self.own, self.used = own, used
        self.gains = dict(GAINS)
        self.first, self.last = nn.Linear(5, 8), nn.Linear(8, 3)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in (GAINS if used is through_layers else ()))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        return self.last(self.used(self, hidden, self.gains if self.own else GAINS).relu())  # type: ignore[no-any-return]


def through_layers(model: Any, hidden: Tensor, gains: Any) -> Tensor:
    for layer, gain in zip(model.layers, gains.values(), strict=True):
        hidden = hidden + gain * layer(hidden).relu()
    return hidden


READ_WHOLE: dict[str, Callable[[Any, Tensor, Any], Tensor]] = {
    "values": through_layers,
    "items": lambda m, y, gains: y * sum(gain * stride for stride, gain in gains.items()),
    "iteration": lambda m, y, gains: y * sum(gains[stride] for stride in gains),
    "length": lambda m, y, gains: y * len(gains),
    "truth": lambda m, y, gains: y * 2 if gains else y,
    "equality": lambda m, y, gains: y * 2 if gains == {} else y,
}


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("way", READ_WHOLE)
def test_a_table_that_is_read_whole_is_no_cache(way: str, own: bool) -> None:
    torch.manual_seed(0)
    model, x = Weighed(READ_WHOLE[way], own).eval(), torch.randn(2, 5)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert slim.first.out_features == 4
    assert graphprune.verify(model, slim, plan, x).passed
