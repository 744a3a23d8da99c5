"""Caches of other people's functions, which neither keep a watched size nor answer for one.

A ``functools.lru_cache`` that was filled by an earlier run compares a size with a plain integer and gives what was
worked out from that; one that is filled while a model is traced keeps the sizes.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from graphprune.tracing.sizes import Size

_Cached = functools._lru_cache_wrapper
_OWN = frozenset(("torch", "numpy", "sympy", "graphprune", "builtins", *sys.stdlib_module_names)) - {"__main__"}


@contextmanager
def bypassed_caches(submodules: Iterable[tuple[str, nn.Module]]) -> Iterator[None]:
    """Within, cached functions of modules and of the model's classes work out anew what depends on watched sizes."""
    places: list[tuple[Mapping[str, Any], Any, str]] = [
        (vars(module), module, name) for module, name in _modules_caches()
    ]
    kinds = {type(m) for _, m in submodules}
    classes = {base for kind in kinds for base in kind.__mro__ if not _is_own(base.__module__)}
    places += [(vars(kind), kind, name) for kind in classes for name, v in vars(kind).items() if _function_of(v)]
    changed: list[tuple[Any, str, Any]] = []
    try:
        for attributes, holder, name in places:
            changed.append((holder, name, attributes[name]))
            setattr(holder, name, _bypassing(attributes[name]))
        yield
    finally:
        for holder, name, value in changed:
            setattr(holder, name, value)


def _is_own(module: str) -> bool:
    return module.partition(".")[0] in _OWN


def _function_of(value: Any) -> Any:
    """The cached function that a class has as method, class method or static method."""
    function = value.__func__ if isinstance(value, staticmethod | classmethod) else value
    return function if type(function) is _Cached else None


def _bypassing(value: Any) -> Any:
    if isinstance(value, staticmethod | classmethod):
        return type(value)(_bypassing(value.__func__))
    return _wrapper(value)


@functools.lru_cache(maxsize=4096)  # there may be thousands, at every run
def _wrapper(value: Any) -> Callable[..., Any]:
    @functools.wraps(value)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (value.__wrapped__ if _is_traced((args, kwargs)) else value)(*args, **kwargs)

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
    """A module that may hold caches: its globals, how many there were at the last look, and the names of caches."""

    module: ModuleType
    found: dict[str, Any]
    count: int = -1
    caches: tuple[str, ...] = ()

    def look(self) -> None:
        """Look through the globals. Those of ``__main__``, which is typed at, are looked through every time."""
        self.count = -1 if self.module.__name__ == "__main__" else len(self.found)
        self.caches = tuple(name for name, value in list(self.found.items()) if type(value) is _Cached)


_foreign: dict[int, _Foreign] = {}
"""By identity, the modules that may hold caches, as of the last look."""

_loaded: list[ModuleType] = []
"""All modules that were loaded then."""


def _foreign_modules() -> Iterable[_Foreign]:
    """All modules that are loaded and may hold caches."""
    global _foreign, _loaded
    loaded = list(sys.modules.values())
    if loaded != _loaded:
        others = [m for name, m in list(sys.modules.items()) if isinstance(m, ModuleType) and not _is_own(name)]
        _foreign, _loaded = {id(m): _foreign.get(id(m)) or _Foreign(m, vars(m)) for m in others}, loaded
    return _foreign.values()


def _modules_caches() -> Iterator[tuple[ModuleType, str]]:
    """The cached functions among the globals of all modules that are loaded."""
    for foreign in _foreign_modules():
        if len(foreign.found) != foreign.count:
            foreign.look()
        for name in foreign.caches:
            if type(foreign.found.get(name)) is _Cached:
                yield foreign.module, name
