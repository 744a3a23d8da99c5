"""What a program writes to outside of its model while it is traced gets back what it held."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from random import Random
from types import CellType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from graphprune.tracing.containers import container_base, is_dict, items, put_back
from graphprune.tracing.kept_tables import emptied_tables
from graphprune.tracing.may_write import may_write_to
from graphprune.tracing.size_places import values_held
from graphprune.tracing.size_tracking.caches import emptied, empty_caches
from graphprune.utils.held import attribute_table, contents, global_names, held_functions, slot_values, slots_of
from graphprune.utils.modules import Modules, tables
from graphprune.utils.random_state import GENERATORS
from graphprune.utils.reached_functions import CACHED, bases_of_users

Restore = Callable[[], Any]


@contextmanager
def restored_globals(submodules: Modules, holders: Modules) -> Iterator[list[Any]]:
    """Undo what a traced run does to globals, closures, defaults, attributes of functions, objects and classes: those
    that it may reach, which are yielded.

    Args:
        submodules: of the model. What they hold themselves is left alone.
        holders: those of them that may hold functions or objects.
    """
    functions = [function for _, function in held_functions(holders)]
    reached = may_write_to(_classes(submodules), functions, values_held(holders))
    restores = [restore for value in reached for restore in restores_of(value)]
    try:
        for value in reached:
            _empty_cached_functions(value)
        yield reached
    finally:
        for restore in restores:
            restore()


@contextmanager
def outside_generators_kept(*models: nn.Module) -> Iterator[None]:
    """Generators of random numbers that models draw from and do not hold go on as if nothing had been drawn."""
    restores: list[Restore] = []
    for model in models:
        own = tables(model)
        functions = [function for _, function in held_functions(own.holders)]
        reached = may_write_to(_classes(own.modules), functions, values_held(own.holders))
        restores += [r for value in reached if isinstance(value, GENERATORS) for r in restores_of(value)]
    try:
        yield
    finally:
        for restore in restores:
            restore()


@contextmanager
def nothing_kept(model: nn.Module) -> Iterator[None]:
    """Undo what runs of a copy, in another type, leave outside of it; cached functions and tables know nothing of
    others."""
    own = tables(model)
    with (
        empty_caches(own.modules, own.holders),
        restored_globals(own.modules, own.modules) as reached,
        emptied_tables(own.holders, reached),
    ):
        yield


def _classes(submodules: Modules) -> list[type]:
    own = dict.fromkeys([type(m) for _, m in submodules])
    return list(dict.fromkeys(base for kind in own for base in bases_of_users(kind)))


def restores_of(value: Any) -> Iterator[Restore]:
    """What gives a value back what it holds now."""
    if isinstance(value, FunctionType):
        yield from _function_restores(value)
    elif isinstance(value, type):
        yield partial(_put_back_attributes, value, dict(vars(value)))
    else:
        if container_base(value) is not None:
            yield put_back(value)
        elif isinstance(value, RemovableHandle):
            yield from map(put_back, _tables_of(value))
        elif (setter := _state_setter(value)) is not None:
            yield setter
        yield from _attributes_restores(value)


def _state_setter(value: Any) -> Restore | None:
    """What gives a generator of random numbers or an array back what it holds."""
    if isinstance(value, torch.Generator):
        return partial(value.set_state, value.get_state())
    if isinstance(value, Random):
        return partial(value.setstate, value.getstate())
    if isinstance(value, np.random.RandomState):
        return partial(value.set_state, value.get_state(legacy=False))
    if isinstance(value, np.random.Generator):
        return _state_setter(value.bit_generator)
    if isinstance(value, np.random.BitGenerator):
        return partial(setattr, value, "state", value.state)
    if isinstance(value, np.ndarray) and value.flags.writeable:
        return partial(np.copyto, value, value.copy())
    return None


def _attributes_restores(value: Any) -> Iterator[Restore]:
    table = attribute_table(value)
    if table is not None:
        yield put_back(table)
    if slots_of(value):
        yield partial(_put_back_slots, value, slot_values(value))


def _tables_of(handle: RemovableHandle) -> list[dict[int, Any]]:
    """The tables in which there is the hook of a handle, as long as its module or tensor is there."""
    tables = (reference() for reference in (handle.hooks_dict_ref, *handle.extra_dict_ref))
    return [table for table in tables if table is not None]


def _function_restores(function: FunctionType) -> Iterator[Restore]:
    names, assigned = function.__globals__, global_names(function.__code__, "STORE_GLOBAL")
    if assigned:
        before = {name: names[name] for name in assigned if name in names}
        yield partial(_put_back, names, before, assigned)
    yield from (partial(_put_back_contents, cell, contents(cell)) for cell in function.__closure__ or ())
    yield put_back(vars(function))


def _empty_cached_functions(value: Any) -> None:
    """Put cached functions that know nothing in the place of those that a closure, a dictionary or an object holds."""
    if isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            for cached in contents(cell):
                cell.cell_contents = emptied(cached) if type(cached) is CACHED else cached
    if is_dict(value):
        _empty_in(value)
    table = None if isinstance(value, type) else attribute_table(value)
    if table is not None:
        _empty_in(table)


def _empty_in(found: Any) -> None:
    for name, cached in items(found):
        if type(cached) is CACHED:
            container_base(found).__setitem__(found, name, emptied(cached))


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


def _put_back_slots(value: Any, before: dict[str, Any]) -> None:
    now = slot_values(value)
    for name in slots_of(value):
        if name in before and now.get(name, now) is not before[name]:
            object.__setattr__(value, name, before[name])
        elif name in now and name not in before:
            object.__delattr__(value, name)
