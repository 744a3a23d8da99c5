"""Copy a module with other tensors in place of its own, without reading the old ones."""

from __future__ import annotations

import copy
import functools
import sys
from collections import deque
from collections.abc import Callable, Container, Iterator
from contextlib import nullcontext
from functools import cache, lru_cache
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

from graphprune.errors import InputError
from graphprune.utils.copier import Copier, Substitute, assigned_cells, refuse
from graphprune.utils.held import attribute_table, globals_read, held_by_function, hook_tables, parts_of, reachable
from graphprune.utils.modules import Modules, Tables, copy_marks, named_modules, tables, within
from graphprune.utils.random_state import random_numbers_kept

_TABLES = frozenset(vars(nn.Module()))
"""Hooks and the like: every module has tables of its own for these, most of them empty.

The handle of a hook refers to some of them weakly.
"""


def copy_module(
    model: nn.Module,
    tensors: dict[int, Tensor],
    substitute: Substitute = refuse,
    everything: bool = False,
    own: Tables | None = None,
) -> nn.Module:
    """A deep copy of ``model`` in which the tensor ``t`` is replaced by ``tensors[id(t)]``.

    Equal to ``copy.deepcopy(model, memo=tensors)``, several times as fast; and functions whose closures or defaults
    hold the model or its parts, which ``deepcopy`` shares, hold the copy and its parts instead. The copies of
    parameters have what programs note on these, which ``deepcopy`` leaves out. A ``__deepcopy__`` that a class of
    modules has is called only where the module cannot be copied without it: the usual ones build another module, of
    other tensors, mode and hooks.

    Args:
        model: what is copied.
        tensors: the copies of its tensors.
        substitute: what stands for an attribute that cannot be copied.
        everything: copy whatever functions hold, also what is no part of the model, so that nothing the copy runs
            writes to it. Tensors that are noted on parameters are left out: such a copy has shapes alone.
        own: its tensors and submodules, if they are known.

    Raises:
        InputError: an attribute cannot be copied, or a function finds a part of the model under a global name and
            assigns to globals.
    """
    return copy_with_tables(model, tensors, substitute, everything, own)[0]


def copy_with_tables(
    model: nn.Module,
    tensors: dict[int, Tensor],
    substitute: Substitute = refuse,
    everything: bool = False,
    own: Tables | None = None,
) -> tuple[nn.Module, Tables]:
    """As :func:`copy_module`, with the tensors and submodules of the copy."""
    own = own or tables(model)
    classes: set[Any] = {type(module) for _, module in own.modules}
    kinds = {kind for kind in classes if _is_plain_class(kind)}
    try:
        return _copied(model, tensors, substitute, everything, own, kinds)
    except InputError:
        simple = {kind for kind in kinds if not hasattr(kind, "__deepcopy__")}
        if simple == kinds:
            raise
        return _copied(model, tensors, substitute, everything, own, simple)


def _copied(
    model: nn.Module,
    tensors: dict[int, Tensor],
    substitute: Substitute,
    everything: bool,
    own: Tables,
    kinds: Container[type],
) -> tuple[nn.Module, Tables]:
    """The copy; modules of these kinds are copied by their attributes."""
    memo: dict[int, Any] = {id(None): None, **tensors}
    modules = own.modules
    for module in _outermost_scripts(modules):
        memo[id(module)] = _copied_script(module, tensors)
    plain = [(path, m) for path, m in modules if type(m) in kinds]
    for _, module in plain:
        memo[id(module)] = object.__new__(type(module))
    parts = cache(lambda: parts_of(model))
    memo.update(_global_containers(own, _everything_in(model) if everything else parts))
    copier = Copier(memo, parts, substitute, everything, cache(lambda: assigned_cells(model)))
    all_plain = len(plain) == len(modules)
    with nullcontext() if all_plain else random_numbers_kept():  # others may be built for it
        for path, module in reversed(plain):  # what a module of another kind holds is there when it is copied
            state = nn.Module.__getstate__(module)  # without what was compiled of this very module
            attributes = copier.attributes(state, f".{path}" if path else "", _TABLES)
            object.__setattr__(memo[id(module)], "__dict__", attributes)
        copied = copier.copied(model)
        if not all_plain:
            _complete(modules, copied, copier)
    for parameter in own.parameters.values():
        if parameter.__dict__ and memo.get(id(parameter), parameter) is not parameter:
            copy_marks(parameter, memo[id(parameter)], None if everything else copier.copied)
    return copied, own.copied(memo) if all_plain else tables(copied)


def _everything_in(model: nn.Module) -> Callable[[], set[int]]:
    """The identities of what a model and its functions hold, worked out when they are asked for."""
    return lambda: {id(value) for value in reachable([model])}


def _global_containers(own: Tables, held: Callable[[], set[int]]) -> dict[int, Any]:
    """Dictionaries and lists that a function of the model finds under a global name, and that would be copied.

    They are one for all models, as when each is built anew: a function cannot be given another global.
    """
    shared = [v for _, f in own.functions for _, v in globals_read(f) if isinstance(v, dict | list | set)]
    functions = {f for kind in {type(module) for _, module in own.modules} for f in _run_by(kind)}
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
    return [value for name, value in vars(module).items() if name not in _TABLES]


def _read_by(kind: type) -> Iterator[Any]:
    """What functions of a user's class find: globals, what imported files hold, in closures, and on the class."""
    for function in _run_by(kind, everywhere=True):
        names = function.__code__.co_names
        yield from held_by_function(function)
        for _, value in globals_read(function):
            yield value
            yield from (vars(value)[name] for name in names if name in vars(value)) if _is_file(value) else ()
        yield from (vars(base)[name] for base in kind.__mro__ for name in names if name in vars(base))


def _is_file(value: Any) -> bool:
    return isinstance(value, ModuleType) and value.__name__.partition(".")[0] not in _NOT_USERS


_NOT_USERS = frozenset(("torch", "builtins", *sys.stdlib_module_names)) - {"__main__"}


_PLAIN = (dict, list, set)


def _has_tensors_alone(value: Any) -> bool:
    """Is it what runs leave tensors in, rather than a table of sizes or of layers?"""
    if type(value) in _PLAIN:
        return all(map(_has_tensors_alone, value.values() if type(value) is dict else value))
    return isinstance(value, Tensor) and not isinstance(value, nn.Parameter)


def _run_by(kind: type, everywhere: bool = False) -> set[FunctionType]:
    """``forward`` of a user's class, the methods that it names, and the functions of the same files that these call.

    Args:
        kind: the class.
        everywhere: of all files.
    """
    bases = (base for base in kind.__mro__ if base.__module__.partition(".")[0] not in ("torch", "builtins"))
    members = [(name, getattr(v, "fget", v)) for base in bases for name, v in vars(base).items()]
    methods = [(name, f) for name, f in members if isinstance(f, FunctionType)]
    waiting = [f for name, f in methods if name == "forward"]
    found: set[FunctionType] = set()
    while waiting:
        function = waiting.pop()
        if function not in found:
            found.add(function)
            waiting += [f for name, f in methods if name in function.__code__.co_names]
            waiting += [f for f in _named(function) if everywhere or f.__globals__ is function.__globals__]
    return found


def _named(function: FunctionType) -> Iterator[FunctionType]:
    """The functions that a function finds under global names, and in files that are imported."""
    for _, value in globals_read(function):
        names = function.__code__.co_names if _is_file(value) else ()
        found = (value, *(vars(value)[name] for name in names if name in vars(value)))
        yield from (f for f in found if isinstance(f, FunctionType))


def _complete(modules: Modules, copied: nn.Module, copier: Copier) -> None:
    """Put what modules are that make their copies themselves into these: modes, and hooks and attributes of programs.

    Modules that are built are in training mode, and put what they hold in it. ``torch.fx.GraphModule`` leaves out what
    it does not know.

    Args:
        modules: of the model.
        copied: the copy.
        copier: makes the copies of attributes.
    """
    copies = dict(named_modules(copied))
    for path, module in modules:
        made = copies.get(path, module)
        if isinstance(module, fx.GraphModule) and made is not module:
            vars(made).update(copier.attributes(_left_out(vars(module), vars(made)), f".{path}" if path else ""))
        if made.training is not module.training:
            made.train(module.training)  # with which some exchange their program


def _left_out(own: dict[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    """The attributes and tables of hooks that a copy lacks."""
    hooks = {name for name in own if "_hooks" in name and own[name] and not made.get(name)}
    return {name: value for name, value in own.items() if name not in made or name in hooks}


def _outermost_scripts(modules: Modules) -> list[nn.Module]:
    scripts = [(path, m) for path, m in modules if isinstance(m, torch.jit.ScriptModule)]
    paths = [path for path, _ in scripts]
    return [m for path, m in scripts if not ("" in paths and path) and not within(path, paths)]


def _copied_script(module: nn.Module, tensors: dict[int, Tensor]) -> nn.Module:
    """TorchScript copies its tensors itself; they are exchanged afterwards."""
    copied = copy.deepcopy(module)
    for (_, old), (_, new) in zip(named_modules(module), named_modules(copied), strict=True):
        for name, tensor in (*old._parameters.items(), *old._buffers.items()):
            if id(tensor) in tensors:
                setattr(new, name, tensors[id(tensor)])
    return copied


@lru_cache(maxsize=1024)
def _is_plain_class(kind: type[nn.Module]) -> bool:
    """Is a module of such a class its attributes, and nothing else?"""
    if kind.__getstate__.__module__ == parametrize.__name__:  # of a parametrized module; it refuses to be pickled
        return _is_plain_class(kind.__base__)
    hooks = ("__reduce__", "__reduce_ex__", "__getstate__")
    same = all(getattr(kind, h, None) is getattr(nn.Module, h, None) for h in hooks)
    reads_old_files = kind.__setstate__.__module__.startswith(("torch.nn", "torch._dynamo"))  # once it has compiled
    return same and reads_old_files and kind.__new__ is object.__new__ and not issubclass(kind, torch.jit.ScriptModule)
