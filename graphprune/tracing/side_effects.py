"""Globals that a program writes to while it is traced, and that get back what they held."""

from __future__ import annotations

from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
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
    classes = _classes(submodules)
    read = _functions(classes, held)
    restores = [restore for function, values in read for restore in _restores(function, values)]
    restores += [restore for kind in classes for restore in _class_restores(kind)]
    try:
        yield
    finally:
        for restore in restores:
            restore()


def _classes(submodules: Modules) -> list[type]:
    own = {type(m) for _, m in submodules}
    kinds = {base for kind in own for base in kind.__mro__}
    return [kind for kind in kinds if kind.__module__.partition(".")[0] not in ("torch", "builtins")]


def _functions(
    classes: Iterable[type], held: Iterable[tuple[str, FunctionType]]
) -> list[tuple[FunctionType, list[tuple[str, Any]]]]:
    """The functions of classes, those that are held, and those of the same modules that these call.

    Returns:
        With each, the globals that it reads.
    """
    methods = [v for kind in classes for v in vars(kind).values() if isinstance(v, FunctionType)]
    own = {id(f): f for f in methods + [f for _, f in held]}
    found = [(function, globals_read(function)) for function in own.values()]
    called = {id(v): v for function, read in found for _, v in read if _is_neighbor(v, function)}
    return found + [(function, globals_read(function)) for key, function in called.items() if key not in own]


def _is_neighbor(value: Any, function: FunctionType) -> bool:
    return type(value) is FunctionType and value.__globals__ is function.__globals__


def _restores(function: FunctionType, read: Iterable[tuple[str, Any]]) -> Iterator[Restore]:
    values = [value for _, value in read]
    values += (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values())
    yield from _container_restores(values)
    names, assigned = function.__globals__, global_names(function.__code__, "STORE_GLOBAL")
    if assigned:
        before = {name: names[name] for name in assigned if name in names}
        yield lambda: _put_back(names, before, assigned)


def _put_back(names: dict[str, Any], before: dict[str, Any], assigned: frozenset[str]) -> None:
    for name in assigned - before.keys():
        names.pop(name, None)
    names.update(before)


def _class_restores(kind: type) -> Iterator[Restore]:
    return _container_restores(vars(kind).values())


_DICTS = frozenset((dict, OrderedDict, defaultdict))
_CONTAINERS = _DICTS | {list, deque, set}
"""Classes of one's own may give other entries than they hold."""


def _container_restores(values: Iterable[Any]) -> Iterator[Restore]:
    """What gives the containers among values back the entries that they have now."""
    for value in values:
        kind = type(value)
        if kind not in _CONTAINERS:
            continue
        if kind in _DICTS:
            yield partial(_refill_dict, value, dict(value))
        elif kind is set:
            yield partial(_refill_set, value, set(value))
        else:
            yield partial(_refill_list, value, list(value))


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
