"""Copy a module with other tensors in place of its own, without reading the old ones."""

from __future__ import annotations

import copy
from collections.abc import Callable, Container
from contextlib import nullcontext
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from graphprune.errors import InputError
from graphprune.utils.copier import Copier, Substitute, assigned_cells, refuse
from graphprune.utils.held import parts_of, reachable
from graphprune.utils.modules import Modules, Tables, copy_marks, named_modules, tables, within
from graphprune.utils.random_state import random_numbers_kept
from graphprune.utils.shared_containers import TABLES_OF_MODULES, shared_containers


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
    memo.update(shared_containers(own, _everything_in(model) if everything else parts))
    copier = Copier(memo, parts, substitute, everything, cache(lambda: assigned_cells(model)))
    all_plain = len(plain) == len(modules)
    with nullcontext() if all_plain else random_numbers_kept():  # others may be built for it
        for path, module in reversed(plain):  # what a module of another kind holds is there when it is copied
            state = nn.Module.__getstate__(module)  # without what was compiled of this very module
            attributes = copier.attributes(state, f".{path}" if path else "", TABLES_OF_MODULES)
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
