"""Caches among the example inputs: every run finds them as they were given, and so does the user afterwards."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.utils.own_objects import with_own_objects


class Memory:
    """What earlier calls gave, in a list that grows or in a table that is written to."""

    def __init__(self, grows: bool, width: int) -> None:
        self.grows, self.seen, self.count = grows, [] if grows else [torch.zeros(2, 6, width)], 0

    def update(self, new: Tensor) -> Tensor:
        start, self.count = self.count, self.count + new.shape[1]
        if self.grows:
            self.seen.append(new)
            return torch.cat(self.seen, 1)
        self.seen[0].index_copy_(1, torch.arange(start, self.count), new)
        return self.seen[0]


class Remembering(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.inner, self.leave = nn.Linear(5, 8), nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor, memory: Memory) -> Any:
        places = torch.arange(x.shape[1]) + memory.count  # a number of the program
        h = memory.update(self.enter(x)).mean(1, keepdim=True) + places[:, None]
        return self.leave(self.inner(h).relu())


@pytest.mark.parametrize("grows", [True, False])
@pytest.mark.parametrize("filled", [True, False])
def test_a_cache_that_is_given_stays_as_it_is(grows: bool, filled: bool) -> None:
    torch.manual_seed(0)
    model, x, memory = Remembering().eval(), torch.randn(2, 3, 5), Memory(grows, 8)
    if filled:
        memory.update(torch.randn(2, 3, 8))
    before, count = [t.clone() for t in memory.seen], memory.count
    inputs = {"x": x, "memory": memory}
    graph = graphprune.trace(model, inputs)
    plan = graph.plan(mlp=0.5)
    slim = plan.apply(model)
    assert slim.inner.out_features == 8
    assert graphprune.verify(model, slim, plan, inputs).passed
    graphprune.measure(model, inputs)
    graph.plan(mlp=0.5, importance="wanda", calibration=[inputs, inputs])
    assert memory.count == count
    assert len(memory.seen) == len(before)
    assert all(torch.equal(now, then) for now, then in zip(memory.seen, before, strict=True))
    assert not any(now.requires_grad for now in memory.seen)


class Called:
    """What earlier calls gave, of which a call gives all."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, new: Tensor) -> Tensor:
        self.seen.append(new)
        return torch.cat(self.seen, 1)


class InSlots:
    """The same without a dictionary of attributes."""

    __slots__ = ("seen",)

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    __call__ = Called.__call__


class OfDeque(deque[Tensor]):
    """The same without a list."""

    def __call__(self, new: Tensor) -> Tensor:
        self.append(new)
        return torch.cat(tuple(self), 1)


@dataclass(frozen=True)
class Fields:
    memory: Any
    x: Tensor


class Named(NamedTuple):
    memory: Any
    x: Tensor


class Marked(OrderedDict[str, Any]):
    """A dictionary with an attribute."""

    memory: Any


def ordered(memory: Any, x: Tensor) -> Any:
    return OrderedDict(memory=memory, x=x)


def marked(memory: Any, x: Tensor) -> Any:
    made = Marked(x=x)
    made.memory = memory
    return made


class Unpacking(nn.Module):
    """A model that takes its input and what it remembers in one argument."""

    def __init__(self, remember: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave, self.remember = nn.Linear(6, 16), nn.Linear(16, 4), remember

    def forward(self, given: Any) -> Tensor:
        has_attributes = hasattr(given, "memory")
        memory = given.memory if has_attributes else given["memory"]
        x = given["x"] if isinstance(given, dict) else given.x
        return self.leave(self.remember(memory, self.enter(x).relu()))


def assert_pruned(model: Unpacking, *inputs: Any) -> None:
    graph = graphprune.trace(model, inputs)
    plan = graph.plan(0.5)
    slim = plan.apply(model)
    assert slim.enter.out_features == 8
    assert graphprune.verify(model, slim, plan, inputs).passed
    graphprune.measure(model, inputs)
    graph.plan(0.5, importance="wanda", calibration=[inputs, inputs])


@pytest.mark.parametrize("held_in", [Fields, Named, ordered, marked])
@pytest.mark.parametrize("kind", [Called, InSlots, OfDeque])
def test_caches_are_found_in_every_container(held_in: Callable[[Any, Tensor], Any], kind: type) -> None:
    torch.manual_seed(0)
    memory = kind()
    assert_pruned(Unpacking(lambda memory, new: memory(new)).eval(), held_in(memory, torch.randn(2, 1, 6)))
    assert not (memory if kind is OfDeque else memory.seen)


def test_a_method_of_a_cache_belongs_to_the_copy() -> None:
    torch.manual_seed(0)
    memory = Called()
    assert_pruned(Unpacking(lambda call, new: call(new)).eval(), Fields(memory.__call__, torch.randn(2, 1, 6)))
    assert not memory.seen


def test_a_cache_of_transformers_in_a_dataclass_stays_as_it_is() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    memory = transformers.DynamicCache()

    def remember(memory: Any, new: Tensor) -> Tensor:
        return memory.update(new[:, None], new[:, None], 0)[0][:, 0]

    assert_pruned(Unpacking(remember).eval(), Fields(memory, torch.randn(2, 1, 6)))
    assert memory.get_seq_length() == 0


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor, beside: dict[str, Any]) -> Tensor:
        scale, (generator,) = beside["scale"], beside["generators"]
        scale *= 2
        return self.leave(self.enter(x * torch.from_numpy(scale) + torch.rand(6, generator=generator)).relu())


def test_arrays_and_generators_stay_as_they_are() -> None:
    torch.manual_seed(0)
    model, scale, generator = Scaled().eval(), np.ones(6, dtype=np.float32), torch.Generator().manual_seed(0)
    before = generator.get_state()
    inputs = (torch.randn(2, 6), {"scale": scale, "generators": [generator]})
    plan = graphprune.trace(model, inputs).plan(0.5)
    slim = plan.apply(model)
    assert slim.enter.out_features == 8
    assert graphprune.verify(model, slim, plan, inputs).passed
    assert (scale == 1).all()
    assert torch.equal(generator.get_state(), before)


class Marking(nn.Module):
    """A model that knows a value by its identity, and keeps a module and a function that it is given."""

    missing = object()

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 16), nn.Linear(16, 4)

    def forward(self, given: Fields, mark: object, activation: Callable[[Tensor], Tensor]) -> Tensor:
        if mark is not self.missing or activation is not torch.relu:
            raise ValueError("what stands for itself was copied")
        return self.leave(given.memory(activation(self.enter(given.x))))


def test_values_that_stand_for_themselves_are_not_copied() -> None:
    torch.manual_seed(0)
    model, memory = Marking().eval(), Called()
    slim = graphprune.prune_model(model, 0.5, (Fields(memory, torch.randn(2, 1, 6)), Marking.missing, torch.relu))
    assert slim.enter.out_features == 8
    assert not memory.seen


def test_copies_of_tensors_in_objects_have_gradients_where_these_have() -> None:
    given = SimpleNamespace(x=torch.randn(2, 6, requires_grad=True), number=torch.tensor(3))
    copied = with_own_objects(given)
    assert copied.x is not given.x and torch.equal(copied.x, given.x)
    assert copied.x.requires_grad and not copied.number.requires_grad
