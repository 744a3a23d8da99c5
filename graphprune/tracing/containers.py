"""Containers that programs keep things in: what they hold, and how they get it back.

Classes that are derived from Python's may override what reads and writes, and give other entries than they hold: what
their bases hold is read and written.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from operator import is_not
from typing import Any

_BASES: tuple[type, ...] = (OrderedDict, dict, list, deque, set)


def container_base(value: Any) -> Any:
    """Which of Python's containers that can be changed it is, or is derived from; None: it is none, such as a proxy."""
    kind = type(value)
    if kind in _BASES or not issubclass(kind, _BASES):
        return kind if kind in _BASES else None
    return next(base for base in _BASES if issubclass(kind, base))


def is_dict(value: Any) -> bool:
    """Is it a dictionary, of whatever class?"""
    return issubclass(type(value), dict)


def contained(value: Any) -> list[Any]:
    """What a container holds: of dictionaries the values."""
    base = container_base(value)
    return list(base.values(value) if is_dict(value) else base.__iter__(value))


def items(value: Any) -> list[tuple[Any, Any]]:
    """What a dictionary holds."""
    return list(container_base(value).items(value))


def put_back(value: Any) -> Callable[[], None]:
    """What gives a container back what it holds now."""
    if is_dict(value):
        return partial(_refill_dict, value, items(value))
    return partial(_refill_set if issubclass(type(value), set) else _refill_list, value, contained(value))


def _refill_dict(value: dict[Any, Any], held: list[tuple[Any, Any]]) -> None:
    """Let a dictionary hold these entries; one that holds these values is not touched."""
    if _others(contained(value), [entry for _, entry in held]):
        base = container_base(value)
        base.clear(value)
        for name, entry in held:
            base.__setitem__(value, name, entry)


def _refill_list(value: Any, held: list[Any]) -> None:
    if _others(contained(value), held):
        base = container_base(value)
        base.clear(value)
        base.extend(value, held)


def _refill_set(value: set[Any], held: list[Any]) -> None:
    if _others(contained(value), held):
        set.clear(value)
        set.update(value, held)


def _others(now: list[Any], before: list[Any]) -> bool:
    return len(now) != len(before) or any(map(is_not, now, before))
