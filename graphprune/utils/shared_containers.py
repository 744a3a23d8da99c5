"""What copies of a model share with it: containers and objects that its functions find elsewhere than in the model."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from graphprune.utils.held import attribute_table, globals_read, held_by_function, hook_tables, reachable
from graphprune.utils.modules import Tables
from graphprune.utils.reached_functions import functions_from, is_library

TABLES_OF_MODULES = frozenset(vars(nn.Module()))
"""Hooks and the like: every module has tables of its own for these, most of them empty.

The handle of a hook refers to some of them weakly.
"""


def shared_containers(own: Tables, held: Callable[[], set[int]]) -> dict[int, Any]:
    """Dictionaries and lists that a function of the model finds under a global name, and that would be copied.

    They are one for all models, as when each is built anew: a function cannot be given another global.
    """
    shared = [v for _, f in own.functions for _, v in globals_read(f) if isinstance(v, dict | list | set)]
    functions = {f for kind in {type(module) for _, module in own.modules} for f in functions_from("forward", kind)}
    shared += (v for f in functions for _, v in globals_read(f) if type(v) in _PLAIN and _has_tensors_alone(v))
    shared += _stores(own)
    copied = held() if shared else ()
    return {id(v): v for v in shared if id(v) in copied}


def _stores(own: Tables) -> list[Any]:
    """Objects and containers that hooks fill, and that functions of the classes find elsewhere than in the model.

    Those that hold layers or handles of hooks are none: these are the copy's. Those that modules have as attributes,
    too, may hold sizes.
    """
    hooks = [vars(m)[name] for _, m in own.holders for name in hook_tables(tuple(vars(m)))]
    if not any(hooks):
        return []
    tables_of_hooks = {id(table) for table in hooks}
    filled = [v for v in reachable(filter(None, hooks)) if _may_be_filled(v) and id(v) not in tables_of_hooks]
    kinds = {type(module) for _, module in own.modules}
    found = {id(v) for v in reachable(v for kind in kinds for v in _read_by(kind))} if filled else set()
    attributes = {id(v) for _, m in own.holders for v in reachable(_attributes(m))} if filled else set()
    return [v for v in filled if id(v) in found - attributes and not any(map(_is_part, reachable([v])))]


def _may_be_filled(value: Any) -> bool:
    passed = (nn.Module, Tensor, FunctionType, MethodType, functools.partial)
    return not isinstance(value, passed) and (isinstance(value, _FILLED) or attribute_table(value) is not None)


_FILLED = (dict, list, set, deque)


def _is_part(value: Any) -> bool:
    return isinstance(value, nn.Module | nn.Parameter | RemovableHandle)


def _attributes(module: nn.Module) -> list[Any]:
    """What a module holds itself, but for hooks and submodules."""
    return [value for name, value in vars(module).items() if name not in TABLES_OF_MODULES]


def _read_by(kind: type) -> Iterator[Any]:
    """What functions of a user's class find: globals, what imported files hold, in closures, and on the class."""
    for function in functions_from("forward", kind):
        names = function.__code__.co_names
        yield from held_by_function(function)
        for _, value in globals_read(function):
            yield value
            yield from (vars(value)[name] for name in names if name in vars(value)) if _is_file(value) else ()
        yield from (vars(base)[name] for base in kind.__mro__ for name in names if name in vars(base))


def _is_file(value: Any) -> bool:
    return isinstance(value, ModuleType) and not is_library(value.__name__)


_PLAIN = (dict, list, set)


def _has_tensors_alone(value: Any) -> bool:
    """Is it what runs leave tensors in, rather than a table of sizes or of layers?"""
    if type(value) in _PLAIN:
        return all(map(_has_tensors_alone, value.values() if type(value) is dict else value))
    return isinstance(value, Tensor) and not isinstance(value, nn.Parameter)
