"""What a program writes to outside of its model while it is traced gets back what it held."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import CellType, FunctionType
from typing import Any

from torch import nn

from graphprune.tracing.may_write import CACHED, CONTAINERS, DICTS, is_own, may_write_to
from graphprune.tracing.size_tracking.caches import emptied, empty_caches
from graphprune.utils.held import contents, global_names, held_functions
from graphprune.utils.modules import Modules, tables

Restore = Callable[[], None]


@contextmanager
def restored_globals(submodules: Modules, held: Iterable[tuple[str, FunctionType]]) -> Iterator[None]:
    """Undo what a traced run does to globals, closures, defaults, attributes of functions, objects and classes.

    Args:
        submodules: of the model. What they hold themselves is left alone.
        held: the functions that these hold as attributes or hooks, with their paths.
    """
    reached = may_write_to(_classes(submodules), [function for _, function in held])
    restores = [restore for value in reached for restore in restores_of(value)]
    try:
        for value in reached:
            _empty_cached_functions(value)
        yield
    finally:
        for restore in restores:
            restore()


@contextmanager
def nothing_kept(model: nn.Module) -> Iterator[None]:
    """Undo what runs of a copy, in another type, leave outside of it; cached functions know nothing of others."""
    own = tables(model)
    with empty_caches(own.modules, own.holders), restored_globals(own.modules, held_functions(own.modules)):
        yield


def _classes(submodules: Modules) -> list[type]:
    own = {type(m) for _, m in submodules}
    kinds = {base for kind in own for base in kind.__mro__}
    return [kind for kind in kinds if not is_own(kind.__module__)]


def restores_of(value: Any) -> Iterator[Restore]:
    """What gives a value back what it holds now."""
    if isinstance(value, FunctionType):
        yield from _function_restores(value)
    elif isinstance(value, type):
        yield partial(_put_back_attributes, value, dict(vars(value)))
    elif type(value) in DICTS:
        yield partial(_refill_dict, value, dict(value))
    elif type(value) is set:
        yield partial(_refill_set, value, set(value))
    elif type(value) in CONTAINERS:
        yield partial(_refill_list, value, list(value))
    elif hasattr(value, "__dict__"):
        yield partial(_refill_dict, vars(value), dict(vars(value)))


def _function_restores(function: FunctionType) -> Iterator[Restore]:
    names, assigned = function.__globals__, global_names(function.__code__, "STORE_GLOBAL")
    if assigned:
        before = {name: names[name] for name in assigned if name in names}
        yield partial(_put_back, names, before, assigned)
    yield from (partial(_put_back_contents, cell, contents(cell)) for cell in function.__closure__ or ())
    yield partial(_refill_dict, vars(function), dict(vars(function)))


def _empty_cached_functions(value: Any) -> None:
    """Put cached functions that know nothing in the place of those that a closure, a container or an object holds."""
    if isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            for cached in contents(cell):
                cell.cell_contents = emptied(cached) if type(cached) is CACHED else cached
    elif type(value) in DICTS or not isinstance(value, type | list | set | deque):
        entries = value if type(value) in DICTS else vars(value) if hasattr(value, "__dict__") else {}
        entries.update({name: emptied(cached) for name, cached in entries.items() if type(cached) is CACHED})


def _put_back(names: dict[str, Any], before: dict[str, Any], assigned: frozenset[str]) -> None:
    for name in assigned - before.keys():
        names.pop(name, None)
    names.update(before)


def _put_back_contents(cell: CellType, before: tuple[Any, ...]) -> None:
    now = contents(cell)
    if before and not (now and now[0] is before[0]):
        (cell.cell_contents,) = before
    elif now and not before:
        del cell.cell_contents


def _put_back_attributes(kind: type, before: dict[str, Any]) -> None:
    for name in vars(kind).keys() - before.keys():
        delattr(kind, name)
    for name, value in before.items():
        if vars(kind).get(name) is not value:
            setattr(kind, name, value)


def _refill_dict(value: dict[Any, Any], items: dict[Any, Any]) -> None:
    if len(value) != len(items) or any(a is not b for a, b in zip(value.values(), items.values(), strict=True)):
        value.clear()
        value.update(items)


def _refill_list(value: Any, entries: list[Any]) -> None:
    if len(value) != len(entries) or any(a is not b for a, b in zip(value, entries, strict=True)):
        value.clear()
        value.extend(entries)


def _refill_set(value: set[Any], members: set[Any]) -> None:
    value.intersection_update(members)
    value.update(members)
