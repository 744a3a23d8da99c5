"""Cached functions of a program: heads are found whether the model ever ran or not, and no cache keeps a size."""

from __future__ import annotations

import functools
import gc
import sys
from collections.abc import Callable
from queue import SimpleQueue
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.tracing.inputs import MethodCall
from graphprune.tracing.size_tracking.caches import bypassed_caches
from graphprune.tracing.sizes import Size
from graphprune.tracing.tracer import record

X = torch.randn(2, 5, 32)


KEPT: SimpleQueue[Any] = SimpleQueue()
"""What is written into lists is gone after a trace."""


@functools.lru_cache(256)
def split_shape(shape: tuple[int, ...], heads: int) -> tuple[int, ...]:
    KEPT.put(shape)
    return (*shape[:-1], 3, heads, shape[-1] // (3 * heads))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = 4
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.own: Any = functools.lru_cache(split_shape.__wrapped__)

    def split(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return split_shape(shape, self.heads)

    def forward(self, x: Tensor) -> Tensor:
        y = self.qkv(x)
        q, k, v = y.view(self.split(tuple(y.shape))).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        return x + self.out(mixed.transpose(1, 2).flatten(2))


class InMethod(Attention):
    @functools.lru_cache  # noqa: B019
    def split(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return split_shape.__wrapped__(shape, self.heads)


class InStaticMethod(Attention):
    @staticmethod
    @functools.lru_cache
    def shape_of(shape: tuple[int, ...], heads: int) -> tuple[int, ...]:
        return split_shape.__wrapped__(shape, heads)

    def split(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return self.shape_of(shape, self.heads)


class InAttribute(Attention):
    def split(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        found: tuple[int, ...] = self.own(shape, self.heads)
        return found


@pytest.mark.parametrize("make", [Attention, InMethod, InStaticMethod, InAttribute])
def test_plans_are_equal_whether_or_not_the_model_ever_ran(make: Callable[[], Attention]) -> None:
    split_shape.cache_clear()
    cold, hot = make(), make()
    first = graphprune.trace(cold, X).plan(0.5)
    hot(X)
    graph = graphprune.trace(hot, X)
    hot(X)
    plan = graph.plan(0.5)
    assert plan.entries == first.entries and ("heads", 2) in [(c.role, c.kept) for c in plan.choices]
    assert graphprune.verify(hot, plan.apply(hot), plan, X).passed


def test_no_cache_keeps_a_size_and_functions_are_put_back() -> None:
    split_shape.cache_clear()
    before = split_shape
    graphprune.trace(Attention(), X)
    assert split_shape is before and split_shape.cache_info().currsize == 0
    assert any(type(n) is Size for n in KEPT.get())


def test_the_log_of_sizes_ends_with_the_trace() -> None:
    seen: SimpleQueue[Any] = SimpleQueue()

    class Keeping(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            seen.put(x.shape[-1])
            return super().forward(x)

    log = record(Keeping(4, 3), [MethodCall("forward", torch.randn(2, 4))]).sizes
    before = (len(log.uses), len(log.equalities), len(log.numbers), dict(log.comparisons))
    width = seen.get()
    assert type(width) is Size and width == 4 and width > 3 and float(width) == 4.0
    assert before == (len(log.uses), len(log.equalities), len(log.numbers), dict(log.comparisons))


def test_caches_are_found_in_modules_as_these_come_change_and_go() -> None:
    def cached(*_: Any) -> None: ...

    module = ModuleType("comes_and_goes")
    vars(module)["first"] = functools.lru_cache(cached)
    for names in ((), ("first",), ("first", "second"), ()):
        if "second" in names:
            vars(module)["second"] = functools.lru_cache(cached)
        if names:
            sys.modules[module.__name__] = module
        else:
            sys.modules.pop(module.__name__, None)
        before = dict(vars(module))
        with bypassed_caches([]):
            assert {name for name in before if vars(module)[name] is not before[name]} == set(names)
        assert vars(module) == before


class ScalesByCached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 16), nn.Linear(16, 4)
        self.cached: Any = functools.lru_cache(maxsize=None)(self.scale)

    def scale(self, heads: int) -> float:
        return 1.0 / heads

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.enter(x)) * self.cached(3)


class ReadsItself(ScalesByCached):
    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x)
        return self.leave(y + 1 if float(y.detach().sum()) > 1e9 else y) * self.cached(3)


def alive(kind: type) -> int:
    gc.collect()
    return sum(type(found) is kind for found in gc.get_objects())


@pytest.mark.parametrize("kind", [ScalesByCached, ReadsItself])
def test_a_cached_function_of_a_model_keeps_no_traced_copy_alive(kind: type[ScalesByCached]) -> None:
    model, x = kind().eval(), torch.randn(2, 8)
    before = alive(kind)
    for _ in range(2):
        plan = graphprune.trace(model, x).plan(0.5)
        slim = plan.apply(model)
        assert graphprune.verify(model, slim, plan, x).passed
        del plan, slim
    assert alive(kind) == before


def test_a_cached_function_that_a_file_has_no_more_keeps_no_model_alive() -> None:
    model, x = ScalesByCached().eval(), torch.randn(2, 8)
    module = ModuleType("has_a_model_for_a_while")
    vars(module)["cached"] = model.cached
    sys.modules[module.__name__] = module
    graphprune.trace(model, x)
    vars(module)["cached"] = split_shape
    before = alive(ScalesByCached)
    del model
    graphprune.trace(nn.Linear(8, 4), x)
    sys.modules.pop(module.__name__)
    assert alive(ScalesByCached) == before - 1
