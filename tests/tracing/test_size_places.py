"""The number of heads in whatever a layer may hold it: found, changed in the slim model, and nowhere else."""

from __future__ import annotations

import copy
import sys
from collections import ChainMap, OrderedDict, UserDict, UserList
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.tracing.size_places import MOST_HELD, SizePlace


@dataclass
class Settings:
    heads: int


@dataclass(frozen=True)
class Frozen:
    heads: int


@dataclass(frozen=True, slots=True)
class Slotted:
    heads: int


class Named(NamedTuple):
    heads: int
    unused: int = 3


class Ordered(OrderedDict[str, int]):
    pass


class Open(dict[str, int]):
    """A dictionary that answers any name."""

    __getattr__ = dict.get


class Both(dict[str, int]):
    """A dictionary that has its entries as attributes too."""

    def __setitem__(self, name: str, value: int) -> None:
        super().__setitem__(name, value)
        super().__setattr__(name, value)


def both(heads: int) -> Both:
    made = Both()
    made["heads"] = heads
    return made


Holder = tuple[Callable[[int], Any], Callable[[Any], int]]

HOLDERS: dict[str, Holder] = {
    "dictionary": (lambda h: {"heads": h}, lambda c: c["heads"]),
    "list": (lambda h: [h, None], lambda c: c[0]),
    "tuple": (lambda h: ("a", h), lambda c: c[1]),
    "shape": (lambda h: torch.Size([1, h]), lambda c: c[1]),
    "pairs": (lambda h: (("heads", h),), lambda c: dict(c)["heads"]),
    "dataclass": (Settings, lambda c: c.heads),
    "frozen": (Frozen, lambda c: c.heads),
    "slotted": (Slotted, lambda c: c.heads),
    "named tuple": (Named, lambda c: c.heads),
    "slice": (lambda h: slice(2, h), lambda c: c.stop),
    "slice of slices": (lambda h: (None, slice(slice(h), "b")), lambda c: c[1].start.stop),
    "namespace": (lambda h: SimpleNamespace(heads=h), lambda c: c.heads),
    "ordered": (lambda h: Ordered(heads=h), lambda c: c["heads"]),
    "open": (lambda h: Open(heads=h), lambda c: c.heads),
    "both, by attribute": (both, lambda c: c.heads),
    "both, by key": (both, lambda c: c["heads"]),
    "nested": (lambda h: SimpleNamespace(a={"b": [0, (Named(h), None)]}), lambda c: c.a["b"][1][0].heads),
    "numbered": (lambda h: {0: h}, lambda c: c[0]),
    "user's dictionary": (lambda h: UserDict(heads=h), lambda c: c["heads"]),
    "user's list": (lambda h: UserList([h]), lambda c: c[0]),
    "chain": (lambda h: ChainMap({}, {"heads": h}), lambda c: c["heads"]),
    "any key": (lambda h: {"the heads": h}, lambda c: c["the heads"]),
}


class Attention(nn.Module):
    def __init__(self, held: Any, read: Callable[[Any], int], literal: bool = False) -> None:
        super().__init__()
        self.held, self.read, self.literal = held, read, literal
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        heads = self.read(self.held)
        if self.literal:
            assert heads == 4
        q, k, v = self.qkv(x).view(b, n, 3, heads, -1).permute(2, 0, 3, 1, 4)
        return x + self.out(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))


class Net(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.enter, self.layers, self.leave = nn.Linear(5, 16), nn.Sequential(*layers), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.layers(self.enter(x)))


class Gated(nn.Module):
    """Cuts at the bounds of slices that it holds. [n, 5] -> [n, 3]"""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 16), nn.Linear(8, 3)
        self.gate, self.value = slice(0, 8), {"all": [(Ellipsis, slice(8, None))]}

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        found: Tensor = self.leave(y[:, self.gate] * y[self.value["all"][0]])
        return found


def halved(net: nn.Module) -> nn.Module:
    x = torch.randn(2, 5) if isinstance(net, Gated) else torch.randn(2, 6, 5)
    plan = graphprune.trace(net.eval(), x).plan(0.5)
    slim = graphprune.Plan.from_json(plan.to_json()).apply(net)
    assert graphprune.verify(net, slim, plan, x).passed
    assert copy.deepcopy(slim)(x).shape == slim(x).shape
    return slim


def test_bounds_of_slices_follow(tmp_path: Path) -> None:
    net = Gated()
    slim = halved(net)
    assert (slim.gate, slim.value["all"]) == (slice(0, 4), [(Ellipsis, slice(4, None))])
    assert (net.gate, net.value["all"]) == (slice(0, 8), [(Ellipsis, slice(8, None))])
    graphprune.save(slim, tmp_path / "slim")
    x = torch.randn(2, 5)
    loaded = graphprune.load(tmp_path / "slim", Gated())
    assert loaded.gate == slice(0, 4)
    assert torch.equal(loaded(x), slim(x))


copied = pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 cannot copy what answers any name")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[copied] if name == "open" else []) for name in HOLDERS])
def test_heads_are_found_in_what_a_layer_holds(name: str) -> None:
    make, read = HOLDERS[name]
    net = Net(Attention(make(4), read))
    slim = halved(net)
    assert read(slim.layers[0].held) == 2
    assert type(read(slim.layers[0].held)) is int
    assert read(net.layers[0].held) == 4
    assert type(net.layers[0].held) is type(slim.layers[0].held)


def test_heads_are_found_in_read_only_views(tmp_path: Path) -> None:
    """Whose dictionaries others may hold: they get views of their own. Python cannot copy them."""
    shared = MappingProxyType({"heads": 4, "inner": MappingProxyType({"all": (4,)})})
    read = [lambda c: c["heads"], lambda c: c["inner"]["all"][0]]
    net, x = Net(*[Attention(shared, one) for one in read]).eval(), torch.randn(2, 6, 5)
    plan = graphprune.trace(net, x).plan(0.5)
    slim = graphprune.Plan.from_json(plan.to_json()).apply(net)
    assert graphprune.verify(net, slim, plan, x).passed
    assert [one(layer.held) for one, layer in zip(read, slim.layers, strict=True)] == [2, 2]
    assert (shared["heads"], shared["inner"]["all"]) == (4, (4,))
    graphprune.save(slim, tmp_path / "slim")
    loaded = graphprune.load(tmp_path / "slim", Net(*[Attention(shared, one) for one in read]))
    assert torch.equal(loaded.eval()(x), slim(x))


def test_the_view_of_a_dictionary_that_follows_is_not_stale() -> None:
    net = Net(Attention({"heads": 4}, lambda c: c["heads"])).eval()
    net.layers[0].view = MappingProxyType(net.layers[0].held)
    plan = graphprune.trace(net, torch.randn(2, 6, 5)).plan(0.5)
    assert not plan.stale
    assert plan.apply(net).layers[0].view["heads"] == 2


class OfClass(nn.Module):
    """Its class holds the number of heads."""

    heads = 4

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))


def test_a_number_that_the_class_holds_becomes_the_slim_layers_own() -> None:
    net = Net(OfClass())
    slim = halved(net)
    assert (slim.layers[0].heads, net.layers[0].heads, OfClass.heads) == (2, 4, 4)


def test_what_the_class_holds_is_asked_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert halved(Net(OfClass())).layers[0].heads == 2
    monkeypatch.setattr(OfClass, "heads", 8)
    assert halved(Net(OfClass())).layers[0].heads == 4


class Fixed(nn.Module):
    """A width that cannot be set again."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 16

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "width" and name in vars(self):
            raise AttributeError(name)
        super().__setattr__(name, value)

    def forward(self, x: Tensor) -> Tensor:
        return x.view(-1, 6, self.width)


def test_a_layer_that_refuses_other_values_is_changed_past_that() -> None:
    assert halved(Net(Fixed())).layers[0].width == 8


def test_layers_that_share_an_object_keep_the_same_number() -> None:
    shared, read = {"heads": 4}, HOLDERS["dictionary"][1]
    slim = halved(Net(Attention(shared, read), Attention(shared, read)))
    assert slim.layers[0].held is slim.layers[1].held
    assert slim.layers[0].held == {"heads": 2}


def test_an_object_that_one_layer_needs_as_it_is_stays_for_all() -> None:
    shared, read = {"heads": 4}, HOLDERS["dictionary"][1]
    net = Net(Attention(shared, read), Attention(shared, read, literal=True))
    assert halved(net).layers[0].held == {"heads": 4}
    frozen = graphprune.trace(net, torch.randn(2, 6, 5)).frozen
    assert any(f.axis == "layers.0.qkv.weight[0]" and "the size 4 is a literal" in f.reason for f in frozen)


class Twice(nn.Module):
    """Keeps the pairs of its dictionary, and is built from the dictionary when it is copied."""

    def __init__(self, **lengths: int) -> None:
        super().__init__()
        self.lengths = lengths
        self.pairs = tuple(lengths.items())

    def __getstate__(self) -> dict[str, Any]:
        return {"lengths": self.lengths}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state["lengths"])  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (dict(self.pairs)["channels"], -1))


def test_what_is_held_twice_is_changed_twice() -> None:
    net = nn.Sequential(nn.Linear(5, 24), Twice(channels=6), nn.Flatten(0, 1), nn.Conv1d(6, 2, 3))
    slim = halved(net)
    assert slim[1].lengths == {"channels": 3}
    assert slim[1].pairs == (("channels", 3),)


def test_a_vocabulary_is_left_alone() -> None:
    words = {f"word {i}": i for i in range(MOST_HELD + 1)}
    net = Net(Attention({"heads": 4, "words": words}, lambda c: c["heads"] + c["words"]["word 0"]))
    assert halved(net).layers[0].held == {"heads": 2, "words": words}


def test_a_place_that_is_not_there() -> None:
    for path in ("held.missing", "held[3]", "held['a']", "held['a"):
        with pytest.raises((AttributeError, LookupError, TypeError)):
            SizePlace.of(Attention([4], lambda c: c[0]), path).value  # noqa: B018
