"""The functions of users that a method of a class leads to, by the names that they use, without running anything."""

from __future__ import annotations

import dis
import functools
import inspect
import sys
from collections.abc import Iterator
from itertools import pairwise
from types import CodeType, FunctionType, ModuleType
from typing import Any

from graphprune.utils.held import code_objects, held_by_function

CACHED = functools._lru_cache_wrapper
_LIBRARIES = frozenset(("torch", "numpy", "sympy", "graphprune", "builtins", *sys.stdlib_module_names)) - {"__main__"}


@functools.lru_cache(maxsize=1 << 14)
def is_library(module: str) -> bool:
    """Is a module of this name Python's, torch's, numpy's, or this library's?"""
    return module.partition(".")[0] in _LIBRARIES


def bases_of_users(kind: type) -> list[type]:
    """A class and its bases, but for those of libraries."""
    return [base for base in kind.__mro__ if not is_library(base.__module__)]


def is_library_function(function: FunctionType) -> bool:
    """Is the code of a function a library's? That of a wrapper is, whatever it wraps."""
    return is_library(function.__globals__.get("__name__") or "")


def function_of(value: Any) -> FunctionType | None:
    """The function of a method, class method, static method, property or cached function."""
    if isinstance(value, classmethod | staticmethod):
        value = value.__func__
    elif isinstance(value, property):
        value = value.fget
    elif isinstance(value, functools.cached_property):
        value = value.func
    if type(value) is CACHED:
        value = value.__wrapped__
    return value if isinstance(value, FunctionType) else None


def methods_from(first: str, kind: type) -> Iterator[FunctionType]:
    """A method of a class and those that it calls; of ``__init__`` those of all bases."""
    done: set[str] = set()
    waiting = [first]
    while waiting:
        name = waiting.pop()
        if name not in done:
            done.add(name)
            for function in _methods(kind, name):
                waiting.extend(_own_names(function.__code__))
                yield function


def _methods(kind: type, name: str) -> Iterator[FunctionType]:
    """The methods or properties of a name that are neither torch's nor Python's: that of the class, which may go on
    to those of its bases."""
    for base in kind.__mro__:
        found = None if is_library(base.__module__) else function_of(vars(base).get(name))
        if found is not None:
            found = inspect.unwrap(found)
            yield found
        if name in vars(base) and (found is None or "super" not in found.__code__.co_names):
            return


@functools.lru_cache(maxsize=4096)
def _own_names(code: CodeType) -> tuple[str, ...]:
    """The names that code looks up, without those looked up on attributes alone: ``clear`` in ``self.kept.clear()``.

    What a local name stands for cannot be told: it may be the instance.
    """
    steps = [step for step in dis.get_instructions(code) if step.opname != "EXTENDED_ARG"]
    others = {step.offset for before, step in pairwise(steps) if _is_of_attribute(before, step)}
    told = {step.argval for step in steps if type(step.argval) is str and step.offset not in others}
    return tuple(name for name in code.co_names if name in told)


def _is_of_attribute(before: dis.Instruction, step: dis.Instruction) -> bool:
    """Does a step of code look up a name on an attribute that the step before found, and on nothing else?"""
    found = before.opname == "LOAD_ATTR" and before.argval != "__class__"
    return found and step.opname in ("LOAD_ATTR", "LOAD_METHOD") and not step.is_jump_target


def functions_from(first: str, kind: type) -> Iterator[FunctionType]:
    """A method of a class, the methods that it names, and the functions that these name or hold, and so on."""
    members = {name for base in bases_of_users(kind) for name in vars(base)}
    waiting, done = [*_methods(kind, first)], set[FunctionType]()
    while waiting:
        function = waiting.pop()
        if function not in done:
            done.add(function)
            waiting += (method for name in members & names_of(function.__code__) for method in _methods(kind, name))
            waiting += _led_to_by(function)
            yield function


def _led_to_by(function: FunctionType) -> Iterator[FunctionType]:
    for value in (*_looked_up(function), *held_by_function(function)):
        found = value.__wrapped__ if type(value) is CACHED else value
        if type(found) is FunctionType:
            both = (found, inspect.unwrap(found)) if "__wrapped__" in vars(found) else (found,)
            yield from (f for f in both if type(f) is FunctionType and not is_library_function(f))


def _looked_up(function: FunctionType) -> Iterator[Any]:
    """What a function may find by its names: ``halves``, ``helpers.halves``."""
    names, own = names_of(function.__code__), function.__globals__
    found = [own[name] for name in names if name in own]
    yield from found
    for module in found:
        if isinstance(module, ModuleType) and not is_library(module.__name__):
            yield from (vars(module)[name] for name in names if name in vars(module))


@functools.lru_cache(maxsize=4096)
def names_of(code: CodeType) -> frozenset[str]:
    """The names that a piece of code and the functions within it look up, also those that are given as text."""
    texts = (text for c in code_objects(code) for text in c.co_consts if isinstance(text, str) and text.isidentifier())
    return frozenset((*texts, *(name for c in code_objects(code) for name in c.co_names)))
