"""Globals that a program writes to while it is traced, and that get back what they held."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any

from graphprune.utils.held import global_names, globals_read
from graphprune.utils.modules import Modules

Restore = Callable[[], None]


@contextmanager
def restored_globals(submodules: Modules, held: Iterable[tuple[str, FunctionType]]) -> Iterator[None]:
    """Undo what a traced run does to containers and names in the globals and defaults of the model's functions.

    Args:
        submodules: of the model.
        held: the functions that these hold as attributes or hooks, with their paths.
    """
    restores = [restore for function in _functions(submodules, held) for restore in _restores(function)]
    restores += [restore for kind in _classes(submodules) for restore in _class_restores(kind)]
    try:
        yield
    finally:
        for restore in restores:
            restore()


def _classes(submodules: Modules) -> list[type]:
    own = {type(m) for _, m in submodules}
    kinds = {base for kind in own for base in kind.__mro__}
    return [kind for kind in kinds if kind.__module__.partition(".")[0] not in ("torch", "builtins")]


def _functions(submodules: Modules, held: Iterable[tuple[str, FunctionType]]) -> list[FunctionType]:
    methods = [v for kind in _classes(submodules) for v in vars(kind).values() if isinstance(v, FunctionType)]
    found = {id(f): f for f in methods + [f for _, f in held]}
    for function in list(found.values()):
        found.update((id(v), v) for _, v in globals_read(function) if _is_neighbor(v, function))
    return list(found.values())


def _is_neighbor(value: Any, function: FunctionType) -> bool:
    return isinstance(value, FunctionType) and value.__globals__ is function.__globals__


def _restores(function: FunctionType) -> Iterator[Restore]:
    for _, value in globals_read(function):
        yield from _container_restores(value)
    for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        yield from _container_restores(value)
    names, assigned = function.__globals__, global_names(function.__code__, "STORE_GLOBAL")
    if assigned:
        before = {name: names[name] for name in assigned if name in names}
        yield lambda: _put_back(names, before, assigned)


def _put_back(names: dict[str, Any], before: dict[str, Any], assigned: frozenset[str]) -> None:
    for name in assigned - before.keys():
        names.pop(name, None)
    names.update(before)


def _class_restores(kind: type) -> Iterator[Restore]:
    for value in vars(kind).values():
        yield from _container_restores(value)


def _container_restores(value: Any) -> Iterator[Restore]:
    """What gives a container back the entries that it has now."""
    kind = type(value)  # classes of one's own may give other entries than they hold
    if kind in (dict, OrderedDict, defaultdict):
        items = dict(value)
        yield lambda: _refill_dict(value, items)
    elif kind in (list, deque):
        entries = list(value)
        yield lambda: _refill_list(value, entries)
    elif kind is set:
        members = set(value)
        yield lambda: _refill_set(value, members)


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
