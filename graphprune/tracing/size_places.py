"""Where integers stand that may be sizes: attributes of modules, and entries of what modules hold, at any depth.

A place is written as Python would: ``"blocks.0.heads"``, ``"norm.shape[0]"``, ``"settings.sizes['heads']"``,
``"gate.stop"`` of a slice.
"""

from __future__ import annotations

import copy
import gc
import re
from collections import ChainMap, UserDict, UserList
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphprune.utils.held import hook_tables, slots_of
from graphprune.utils.modules import Modules

MOST_HELD = 256
"""A container with more entries is a vocabulary or a log rather than a list of sizes."""

_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]|\['([^'\\]*)'\]")

_OWN = ("torch", "builtins", "collections")

_HOLD_THEIRS = (UserDict, UserList, ChainMap)
"""Classes of Python's that keep a container in an attribute."""

UNCHANGING = (tuple, slice, MappingProxyType)
"""Kinds of holders that are replaced by others, as they cannot be written to."""
_BOUNDS = ("start", "stop", "step")

_BARE = nn.Module()

_MODULES_OWN = frozenset(vars(_BARE))
_MODULES_NAMES = frozenset(dir(_BARE))


def is_integer(value: Any) -> bool:
    """Is it a whole number of Python or numpy, and no truth value?"""
    return type(value) is int or isinstance(value, np.integer)


# ---------------------------------------------------------------- one step


@lru_cache(maxsize=4096)
def _parsed(step: str) -> tuple[Any, ...]:
    """The attribute, position or key that a step is; the others are None."""
    match = _STEP.fullmatch(step)
    if match is None:
        raise AttributeError(f"no attribute or entry {step!r}")
    return match.groups()


def attributes_held(holder: Any) -> dict[str, Any]:
    """The attributes of a module or plain object, those in slots too; of a module not what torch keeps for itself."""
    found = dict(getattr(holder, "__dict__", {}))
    if isinstance(holder, nn.Module):
        return {name: value for name, value in found.items() if name not in _MODULES_OWN}
    for name in slots_of(holder):
        if hasattr(holder, name):
            found[name] = getattr(holder, name)
    return {name: value for name, value in found.items() if name.isidentifier()}


def values_held(modules: Modules) -> list[Any]:
    """The attributes of modules, and their tables of hooks."""
    hooks = (vars(m)[name] for _, m in modules for name in hook_tables(tuple(vars(m))))
    return [v for _, m in modules for v in attributes_held(m).values()] + list(filter(None, hooks))


def class_integers(kind: type[nn.Module]) -> dict[str, int]:
    """The integers that a user's class of modules and its bases hold for all instances now: ``hidden = 64``."""
    held: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if base.__module__.partition(".")[0] not in _OWN:
            held.update(vars(base))
    return {
        name: value
        for name, value in held.items()
        if type(value) is int and not name.startswith("__") and name not in _MODULES_NAMES
    }


def is_plain_object(value: Any) -> bool:
    """An instance of a user's class that keeps attributes, such as a configuration; of an enumeration all share it."""
    if isinstance(value, nn.Module | Tensor | type | tuple | Enum) or callable(value):
        return False
    if isinstance(value, _HOLD_THEIRS):
        return True
    slotted = bool(slots_of(value))
    return (hasattr(value, "__dict__") or slotted) and type(value).__module__.partition(".")[0] not in _OWN


def is_container(value: Any) -> bool:
    """A list or dictionary of a kind that can be written to, a tuple, a shape or a read-only view of a dictionary, of
    not too many entries."""
    known = isinstance(value, list) or type(value) in (tuple, torch.Size) or is_named_tuple(value)
    known = known or dict_behind(value) is not None
    return known and 0 < len(value) <= MOST_HELD


def dict_behind(value: Any) -> dict[Any, Any] | None:
    """A dictionary itself, or the one that a read-only view shows; None: it is neither."""
    (table,) = gc.get_referents(value) if isinstance(value, MappingProxyType) else (value,)
    return table if isinstance(table, dict) else None


def is_named_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def steps_into(value: Any) -> list[tuple[str, Any]]:
    """What a container, slice or plain object holds, each with the step that leads there."""
    if isinstance(value, slice):
        bounds = ((f".{name}", getattr(value, name)) for name in _BOUNDS)
        return [(step, bound) for step, bound in bounds if bound is not None]
    found: list[tuple[str, Any]] = []
    if is_container(value):
        table = dict_behind(value)
        if table is not None:
            found += [(f"[{key!r}]", item) for key, item in dict.items(table) if _is_writable_key(key)]
        else:
            found += [(f"[{i}]", item) for i, item in enumerate(value)]
    if is_plain_object(value):
        repeated = value if isinstance(value, dict) else {}
        attributes = attributes_held(value).items()
        found += [(f".{name}", item) for name, item in attributes if dict.get(repeated, name, found) is not item]
    return found


def _is_writable_key(key: Any) -> bool:
    return (type(key) is int and key >= 0) or (type(key) is str and repr(key) == f"'{key}'")


def write(holder: Any, step: str, item: Any) -> Any:
    """Write an entry or attribute, past the hooks of its class; returns the holder, or what stands in the place of one
    of :data:`UNCHANGING`."""
    name, position, key = _parsed(step)
    if isinstance(holder, slice):
        return slice(*(item if bound == name else getattr(holder, bound) for bound in _BOUNDS))
    if isinstance(holder, MappingProxyType):
        return MappingProxyType(write(copy.copy(dict_behind(holder)), step, item))
    if name is not None:
        _write_attribute(holder, name, item)
    elif isinstance(holder, dict):
        _write_entry(holder, int(position) if key is None else key, item)
    elif isinstance(holder, list):
        list.__setitem__(holder, int(position), item)
    else:
        items = [item if i == int(position) else old for i, old in enumerate(holder)]
        return type(holder)._make(items) if is_named_tuple(holder) else type(holder)(items)
    return holder


def _write_entry(holder: dict[Any, Any], key: str | int, item: Any) -> None:
    """Also write the attribute of a dictionary that has its entries as attributes too."""
    attributes, old = getattr(holder, "__dict__", {}), dict.get(holder, key)
    dict.__setitem__(holder, key, item)
    if key in attributes and attributes[key] is old:
        attributes[key] = item


def _write_attribute(holder: Any, name: str, item: Any) -> None:
    if name in getattr(holder, "__dict__", {}):
        vars(holder)[name] = item
    elif isinstance(holder, nn.Module):
        setattr(holder, name, item)
    else:
        object.__setattr__(holder, name, item)


def same_pairs(holder: Any) -> Iterator[tuple[str, str]]:
    """Attributes that are the pairs of a dictionary in another attribute, with that one's name.

    What keeps both reads one of them, and is built anew from the other one when it is copied.
    """
    attributes = attributes_held(holder)
    tables = {name: list(value.items()) for name, value in attributes.items() if type(value) is dict and value}
    for name, value in attributes.items() if tables else ():
        if type(value) in (tuple, list):
            yield from ((name, table) for table, pairs in tables.items() if list(value) == pairs)


# ---------------------------------------------------------------- a whole path


@lru_cache(maxsize=4096)
def _steps_of(path: str) -> tuple[str, ...]:
    return tuple(match[0] for match in _STEP.finditer(path))


@dataclass(frozen=True)
class SizePlace:
    """The place of an integer in a model or object: what it is reached through, and the last step."""

    holders: tuple[Any, ...]
    steps: tuple[str, ...]

    @staticmethod
    def of(model: Any, path: str) -> SizePlace:
        """The place that a path names.

        Raises:
            AttributeError, LookupError, TypeError: there is none.
        """
        steps = _steps_of(path)
        holders = [model]
        for step in steps[:-1]:
            inner = getattr(holders[-1], "_modules", None)
            name = step.removeprefix(".")
            holders.append(inner[name] if type(inner) is dict and name in inner else _read(holders[-1], step))
        return SizePlace(tuple(holders), steps)

    @property
    def value(self) -> Any:
        return _read(self.holders[-1], self.steps[-1])

    @property
    def is_own(self) -> bool:
        """Does every step lead to what a model holds, rather than to what torch or Python keep for themselves?"""
        return all(_is_own(holder, step) for holder, step in zip(self.holders, self.steps, strict=True))

    def change(self, value: int) -> None:
        """Write another integer; tuples, slices and pairs that repeat a dictionary are replaced on the way."""
        pairs = list(same_pairs(self.holders[-2])) if isinstance(self.holders[-1], dict) else []
        old = self.value
        new: Any = type(old)(value) if isinstance(old, np.integer) else value
        for holder, step in zip(reversed(self.holders), reversed(self.steps), strict=True):
            new = write(holder, step, new)
            if new is holder:
                break
        for name, table in pairs:
            attributes = attributes_held(self.holders[-2])
            _write_attribute(self.holders[-2], name, type(attributes[name])(attributes[table].items()))


def _is_own(holder: Any, step: str) -> bool:
    if isinstance(holder, nn.Module):
        name = step.removeprefix(".")
        return name not in _MODULES_NAMES or (name in vars(holder) and name not in _MODULES_OWN)
    return is_plain_object(holder) or isinstance(holder, dict | list | tuple | slice | MappingProxyType)


def _read(holder: Any, step: str) -> Any:
    name, position, key = _parsed(step)
    if name is None:
        return holder[int(position) if key is None else key]
    if isinstance(holder, nn.Module):
        return getattr(holder, name)
    attributes = attributes_held(holder)
    return attributes[name] if name in attributes else getattr(holder, name)
