"""What objects hold: walks through containers, attributes and functions, without running anything."""

from __future__ import annotations

import dis
import functools
import sys
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from types import BuiltinMethodType, CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

import numpy as np
from torch import Tensor, nn

_CONTAINERS = (list, tuple, set, frozenset, deque)
_HOLD_FUNCTIONS = (dict, FunctionType, functools.partial)
_HOLD_NONE = frozenset((bool, int, float, str, tuple, list, type(None), set, Tensor))
"""What most attributes of modules are, but for dictionaries."""
_DICTS = frozenset((dict, OrderedDict))
_PLAIN = _HOLD_NONE | _DICTS
_LEAVES = (str, bytes, int, float, complex, type, ModuleType, Tensor, type(None))


def held_by(value: Any) -> Iterator[Any]:
    """What an object holds directly: entries, attributes, and of functions the closure and the defaults."""
    if isinstance(value, _LEAVES):
        return
    if issubclass(type(value), dict):
        yield from dict.values(value)
    elif isinstance(value, _CONTAINERS):
        yield from value
    elif isinstance(value, FunctionType):
        yield from held_by_function(value)
    elif isinstance(value, MethodType):
        yield from (value.__self__, value.__func__)
    elif isinstance(value, BuiltinMethodType):
        yield value.__self__
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, weakref.ref):
        yield value()
    yield from (attribute_table(value) or {}).values()
    yield from slot_values(value).values()


def held_by_function(function: FunctionType) -> Iterator[Any]:
    """The contents of the closure and the defaults of a function."""
    for cell in function.__closure__ or ():
        yield from contents(cell)
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()


def contents(cell: Any) -> tuple[Any, ...]:
    """What a closure's cell holds, as a tuple: nothing while the variable is not assigned."""
    try:
        return (cell.cell_contents,)
    except ValueError:
        return ()


def attribute_table(value: Any) -> dict[str, Any] | None:
    """The dictionary of an object's attributes, without asking its class; None: it has none."""
    if isinstance(value, threading.local):
        return vars(value)
    try:
        table: dict[str, Any] = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    return table


def slot_values(value: Any) -> dict[str, Any]:
    """The attributes that an object has in slots and that are set, without asking its class."""
    found = {}
    for name in slots_of(value):
        with suppress(AttributeError):
            found[name] = object.__getattribute__(value, name)
    return found


def slots_of(value: Any) -> tuple[str, ...]:
    """The names of attributes that an object has in slots; of Python's own classes none."""
    return _slots(type(value).__mro__)


@lru_cache(maxsize=4096)
def _slots(bases: tuple[type, ...]) -> tuple[str, ...]:
    if bases[0].__module__.partition(".")[0] in sys.stdlib_module_names - {"__main__"}:
        return ()
    declared = (vars(base) for base in bases if "__slots__" in vars(base))  # members of classes in C are no slots
    members = (name for held in declared for name, v in held.items() if isinstance(v, MemberDescriptorType))
    return tuple(dict.fromkeys(name for name in members if not name.startswith("__")))


def reachable(roots: Iterable[Any], through_functions: bool = True) -> Iterator[Any]:
    """All objects that can be reached from ``roots``, these included, each once.

    Args:
        roots: where the walk begins.
        through_functions: go on through what copies of a model share as a rule: functions and weak references.
    """
    seen: dict[int, Any] = {}
    stack = list(roots)
    while stack:
        value = stack.pop()
        if id(value) in seen or _is_leaf(value):
            continue
        seen[id(value)] = value
        yield value
        if through_functions or not isinstance(value, FunctionType | weakref.ref):
            stack.extend(held_by(value))


def _is_leaf(value: Any) -> bool:
    return type(value) in weakref.ProxyTypes or (isinstance(value, _LEAVES) and not isinstance(value, Tensor))


def tensors_in_objects(value: Any, passed_over: Container[int]) -> Iterator[Tensor]:
    """All tensors that a value and the objects and functions in it hold, but for those of ``passed_over``.

    Args:
        value: any object.
        passed_over: the identities of objects that are not looked into.
    """
    seen: dict[int, Any] = {}
    stack = [value]
    while stack:
        found = stack.pop()
        if isinstance(found, Tensor):
            yield found
        elif id(found) not in seen and id(found) not in passed_over and not isinstance(found, weakref.ref):
            seen[id(found)] = found
            stack += [*held_by(found), *_held_within(found)]


def _held_within(value: Any) -> Iterable[Any]:
    """What a value of Python's or numpy's own classes holds, though it is neither a container nor an attribute."""
    if isinstance(value, BaseException):
        return value.args
    if isinstance(value, slice):
        return value.start, value.stop, value.step
    if isinstance(value, np.ndarray) and value.dtype == object:
        return value.flat
    return ()


def parts_of(model: nn.Module) -> set[int]:
    """The identities of modules, tensors, containers and objects that a model holds, but for what functions hold.

    What partial functions and bound methods hold is among them: their copies have copies of it.
    """
    found = reachable([model], through_functions=False)
    return {id(v) for v in found if not isinstance(v, FunctionType | tuple) and not _is_shared(v)}


def _is_shared(value: Any) -> bool:
    return isinstance(value, MethodType | BuiltinMethodType | functools.partial | weakref.ref) or not (
        isinstance(value, Tensor | dict | list | set | deque) or attribute_table(value) is not None
    )


def code_objects(code: CodeType) -> Iterator[CodeType]:
    """The code of a function, and that of the functions, classes and comprehensions within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from code_objects(constant)


@lru_cache(maxsize=4096)
def global_names(code: CodeType, operations: str = "LOAD_GLOBAL LOAD_NAME") -> frozenset[str]:
    """The global names that a function and the functions within it read; with ``"STORE_GLOBAL"``, that they assign."""
    wanted = operations.split()
    return frozenset(i.argval for c in code_objects(code) for i in dis.get_instructions(c) if i.opname in wanted)


@lru_cache(maxsize=4096)
def _names_in_order(code: CodeType) -> tuple[str, ...]:
    return tuple(sorted(global_names(code)))


def globals_read(function: FunctionType) -> list[tuple[str, Any]]:
    """The globals that a function reads, by name; what torch's functions read is torch's."""
    found, read = function.__globals__, []
    if str(found.get("__name__", "")).partition(".")[0] != "torch":
        for name in _names_in_order(function.__code__):
            try:
                read.append((name, found[name]))
            except KeyError:  # a builtin, or not assigned yet
                continue
    return read


def held_functions(submodules: Iterable[tuple[str, nn.Module]]) -> list[tuple[str, FunctionType]]:
    """Plain functions that modules hold as attributes or hooks, with their paths."""
    found = []
    for path, name, value in _held(submodules):
        if not isinstance(value, _HOLD_FUNCTIONS) or not value:
            continue
        where = f"{path}.{name}" if path else name
        if not isinstance(value, dict):
            found += [(where, f) for f in _unwrapped(value)]
        elif name.endswith("_hooks"):
            found += [(f"{where}[{key}]", f) for key, entry in value.items() for f in _unwrapped(entry)]
    return found


def _held(submodules: Iterable[tuple[str, nn.Module]]) -> list[tuple[str, str, Any]]:
    """What modules hold beside numbers, text, lists, tensors and dictionaries without hooks: path, name and value."""
    return [
        (path, name, value)
        for path, module in submodules
        if not _holds_none(held := vars(module))
        for name, value in held.items()
        if (kind := type(value)) not in _HOLD_NONE and (kind not in _DICTS or (value and name.endswith("_hooks")))
    ]


def _holds_none(attributes: dict[str, Any]) -> bool:
    """Is there nothing else, as in most modules?"""
    if not _PLAIN.issuperset(map(type, attributes.values())):
        return False
    return not any(map(attributes.get, hook_tables(tuple(attributes))))


@lru_cache(maxsize=4096)
def hook_tables(names: tuple[str, ...]) -> tuple[str, ...]:
    """Those names that tables of hooks have."""
    return tuple(name for name in names if name.endswith("_hooks"))


def _unwrapped(value: Any) -> list[FunctionType]:
    if isinstance(value, functools.partial):
        return _unwrapped(value.func)
    if not isinstance(value, FunctionType):
        return []
    inner = (c for cell in value.__closure__ or () for c in contents(cell) if isinstance(c, FunctionType))
    return [value, *inner]
