"""Caches of other people's functions, which neither keep a watched size nor answer for one.

A ``functools.lru_cache`` that was filled by an earlier run compares a size with a plain integer and gives what was
worked out from that; one that is filled while a model is traced keeps the sizes, or tensors without values.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from graphprune.tracing.sizes import Size
from graphprune.utils.modules import Modules
from graphprune.utils.reached_functions import CACHED, bases_of_users, is_library
from graphprune.utils.tree import tensors_of

_MAY_BECACHED = frozenset((CACHED, staticmethod, classmethod))


@contextmanager
def bypassed_caches(submodules: Modules, holders: Modules = ()) -> Iterator[None]:
    """Within, cached functions work out anew what depends on watched sizes.

    Args:
        submodules: of the model, whose classes may have such as methods, beside those that files have as globals.
        holders: those of them that may hold such as attributes.
    """
    made = _foreign.wrappers()
    with _in_place_of_caches(submodules, holders, lambda value: made.get(value) or _wrapper(value)):
        yield


@contextmanager
def empty_caches(submodules: Modules, holders: Modules = ()) -> Iterator[None]:
    """Within, these functions know nothing of earlier calls; afterwards they know nothing of those within."""
    with _in_place_of_caches(submodules, holders, emptied):
        yield


@contextmanager
def _in_place_of_caches(submodules: Modules, holders: Modules, replace: Callable[[Any], Any]) -> Iterator[None]:
    classes = {base for kind in {type(m) for _, m in submodules} for base in bases_of_users(kind)}
    members = [(kind, name, v) for kind in classes for name, v in vars(kind).items() if type(v) in _MAY_BECACHED]
    methods = [member for member in members if _function_of(member[2])]
    functions = [(found, name, found[name]) for found, name in _modules_caches()]
    functions += [(vars(m), name, v) for _, m in holders for name, v in vars(m).items() if type(v) is CACHED]
    try:
        for kind, name, value in methods:
            setattr(kind, name, _replaced(value, replace))
        for found, name, value in functions:
            found[name] = replace(value)
        yield
    finally:
        for found, name, value in functions:
            found[name] = value
        for kind, name, value in methods:
            setattr(kind, name, value)


def _function_of(value: Any) -> Any:
    """The cached function that a class has as method, class method or static method."""
    function = value if type(value) is CACHED else value.__func__
    return function if type(function) is CACHED else None


def _replaced(value: Any, replace: Callable[[Any], Any]) -> Any:
    if isinstance(value, staticmethod | classmethod):
        return type(value)(replace(value.__func__))
    return replace(value)


def emptied(value: Any) -> Any:
    """A cached function that works out the same, and knows nothing of earlier calls."""
    return functools.lru_cache(**value.cache_parameters())(value.__wrapped__)


def _wrapper(value: Any) -> Callable[..., Any]:
    """A function in the place of a cached one, which it does not ask for what depends on watched sizes."""

    @functools.wraps(value)
    def call(*args: Any, **kwargs: Any) -> Any:
        if _is_traced((args, kwargs)):
            return value.__wrapped__(*args, **kwargs)
        known = value.cache_info().misses
        result = value(*args, **kwargs)
        if value.cache_info().misses > known and next(tensors_of(result), None) is not None:
            value.cache_clear()  # a tensor that was made in here is of no use outside
        return result

    return _with_methods(call, value)


def _with_methods(call: Callable[..., Any], cached: Any) -> Callable[..., Any]:
    for name in ("cache_info", "cache_clear", "cache_parameters", "__wrapped__"):
        setattr(call, name, getattr(cached, name))
    return call


def _is_traced(value: Any) -> bool:
    """Is anything among nested arguments a watched size, or a tensor or module that may have such?"""
    if isinstance(value, tuple | list | frozenset):
        return any(map(_is_traced, value))
    if isinstance(value, dict):
        return any(map(_is_traced, value.values()))
    return isinstance(value, Size | Tensor | nn.Module)


@dataclass(slots=True)
class _Foreign:
    """The globals of modules that may hold caches, as of the last look.

    Attributes:
        loaded: all modules that were loaded.
        globals: those of modules that may hold caches.
        counts: how many there were in each.
        caches: the names of caches in each.
        places: all caches, by the globals and the name.
        wrapped: what stands in their places during a run, by the cached function.
    """

    loaded: list[ModuleType] = field(default_factory=list)
    globals: list[dict[str, Any]] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    caches: list[tuple[str, ...]] = field(default_factory=list)
    places: list[tuple[dict[str, Any], str]] = field(default_factory=list)
    wrapped: dict[Any, Callable[..., Any]] = field(default_factory=dict)

    def wrappers(self) -> dict[Any, Callable[..., Any]]:
        """What stands in the places of all caches during a run. There may be thousands, so those of the last run are
        used again; no other is kept, since a function that is gone may hold a model."""
        self.look()
        values = [value for found, name in self.places if type(value := found.get(name)) is CACHED]
        self.wrapped = {value: self.wrapped.get(value) or _wrapper(value) for value in values}
        return self.wrapped

    def look(self) -> None:
        """Look through the globals of which there are others now."""
        loaded = list(sys.modules.values())
        others = loaded != self.loaded
        if others:
            self._load(loaded)
        counts = list(map(len, self.globals))
        if others or counts != self.counts:
            for place, (now, before) in enumerate(zip(counts, self.counts, strict=True)):
                if now != before:
                    self.caches[place] = _names_of_caches(self.globals[place])
            self.counts = counts
            both = zip(self.globals, self.caches, strict=True)
            self.places = [(found, name) for found, names in both for name in names]

    def _load(self, loaded: list[ModuleType]) -> None:
        """Go on with the modules that are loaded now. Those of ``__main__`` are looked through every time."""
        known = {id(found): place for place, found in enumerate(self.globals)}
        others = {
            id(m): m for name, m in list(sys.modules.items()) if isinstance(m, ModuleType) and not is_library(name)
        }
        found = [vars(m) for m in others.values() if m.__name__ != "__main__"]
        places = [known.get(id(one)) for one in found]
        self.counts = [-1 if place is None else self.counts[place] for place in places]
        self.caches = [() if place is None else self.caches[place] for place in places]
        self.loaded, self.globals = loaded, found


_foreign = _Foreign()


def _names_of_caches(found: dict[str, Any]) -> tuple[str, ...]:
    return tuple(name for name, value in list(found.items()) if type(value) is CACHED)


def _modules_caches() -> list[tuple[dict[str, Any], str]]:
    """The cached functions among the globals of all modules that are loaded: these globals, and their names."""
    _foreign.look()
    typed = vars(sys.modules["__main__"])
    there = [(found, name) for found, name in _foreign.places if type(found.get(name)) is CACHED]
    return there + [(typed, name) for name in _names_of_caches(typed)]
