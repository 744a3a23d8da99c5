"""Walk a module's submodules and tensors once, in torch's order and under torch's names.

``nn.Module.named_modules`` nests a generator for every level; on deep networks the walks that analysis needs would
take longer than the analysis.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from types import FunctionType
from typing import Any, TypeGuard

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.nn.utils.prune import BasePruningMethod

from graphprune.utils.held import held_functions, hook_tables
from graphprune.utils.tree import map_tensors

Modules = Sequence[tuple[str, nn.Module]]
"""Submodules with their paths."""

_NO_TENSORS = frozenset((type(None), bool, int, float, str, tuple, dict, OrderedDict, set))
"""What most attributes of modules are. Asking whether something is a tensor takes several times as long."""


TORCHS_DICTS = list(map(type, vars(nn.Module()).values())).count(dict)
"""How many dictionaries every module has."""


def output_dim(kind: type) -> int:
    """The dimension of the weight of such a module that holds its outputs: rows, of some modules columns."""
    return 1 if issubclass(kind, nn.Embedding | _ConvTransposeNd) else 0


@dataclass
class _Walk:
    """What was found in a model that stays as it is."""

    model: nn.Module
    modules: list[tuple[str, nn.Module]] | None = None
    tables: Tables | None = None
    checks: set[str] = field(default_factory=set)


_walk: ContextVar[_Walk | None] = ContextVar("the model that stays as it is", default=None)


@contextmanager
def walked_once(model: nn.Module) -> Iterator[None]:
    """Within, nothing in this thread gives a model other modules or tensors, so that it is walked through once."""
    known = _walk.get()
    token = _walk.set(known if known is not None and known.model is model else _Walk(model))
    try:
        yield
    finally:
        _walk.reset(token)


def check_once(model: nn.Module, name: str, check: Callable[[], None]) -> None:
    """Check a model; within :func:`walked_once`, only once by each name that a check has.

    Args:
        model: is checked.
        name: of the check.
        check: raises if the model does not pass.
    """
    walk = _walk.get()
    if walk is None or walk.model is not model:
        check()
    elif name not in walk.checks:
        check()
        walk.checks.add(name)


def named_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """All submodules with their paths, shared ones once, as ``model.named_modules()`` gives them."""
    walk = _walk.get()
    if walk is None or walk.model is not model:
        return _walked(model)
    if walk.modules is None:
        walk.modules = _walked(model)
    return walk.modules


def _walked(model: nn.Module) -> list[tuple[str, nn.Module]]:
    found: list[tuple[str, nn.Module]] = []
    seen: set[int] = set()
    stack: list[tuple[str, nn.Module]] = [("", model)]
    while stack:
        path, module = stack.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        found.append((path, module))
        if module._modules:
            prefix = f"{path}." if path else ""
            children = reversed(module._modules.items())
            stack += [(prefix + name, child) for name, child in children if child is not None]
    return found


@dataclass(frozen=True)
class Tables:
    """Parameters, buffers and tensors kept as plain attributes, by every name they have.

    Plain ones are a table of positions that is no buffer, or something cached. Those in a list (``nn.LSTM``) have no
    name. ``modules``: the submodules that hold them, as :func:`named_modules` gives them; ``holders``: those of them
    that may hold functions, or dictionaries of their own.
    """

    modules: Modules
    parameters: dict[str, nn.Parameter] = field(default_factory=dict)
    buffers: dict[str, Tensor] = field(default_factory=dict)
    plain: dict[str, Tensor] = field(default_factory=dict)
    listed: list[Tensor] = field(default_factory=list)
    holders: list[tuple[str, nn.Module]] = field(default_factory=list)

    @cached_property
    def functions(self) -> list[tuple[str, FunctionType]]:
        """Plain functions that modules hold as attributes or hooks, with their paths."""
        return held_functions(self.holders)

    def named(self) -> Iterable[tuple[str, Tensor]]:
        """All tensors that have names, parameters first; tied ones under each of theirs."""
        return (*self.parameters.items(), *self.buffers.items(), *self.plain.items())

    def unique(self) -> list[tuple[str, Tensor]]:
        """All tensors, parameters first; tied ones once, under their first name. The list is always the same one."""
        return self._unique

    @cached_property
    def _unique(self) -> list[tuple[str, Tensor]]:
        first: dict[int, tuple[str, Tensor]] = {}
        for name, tensor in self.named():
            first.setdefault(id(tensor), (name, tensor))
        return list(first.values())

    def is_saved(self, name: str) -> bool:
        """Is a tensor in the state dict: no buffer with ``persistent=False``, and no attribute?"""
        path, _, attribute = name.rpartition(".")
        return name not in self.plain and attribute not in self._by_path[path]._non_persistent_buffers_set

    @cached_property
    def _by_path(self) -> dict[str, nn.Module]:
        return dict(self.modules)

    def everything(self) -> dict[int, Tensor]:
        """All tensors by identity, those in lists too."""
        named = (self.parameters, self.buffers, self.plain)
        found: dict[int, Tensor] = {id(t): t for table in named for t in table.values()}
        found.update((id(t), t) for t in self.listed)
        return found

    def copied(self, copies: Mapping[int, Any]) -> Tables:
        """The tables of a copy of the model of which each part stands in the place of the one that it copies.

        Args:
            copies: of modules and tensors, by the identities of what they are copies of.
        """
        named = (self.parameters, self.buffers, self.plain)
        parameters, buffers, plain = ({name: copies[id(t)] for name, t in table.items()} for table in named)
        modules, holders = ([(path, copies[id(m)]) for path, m in found] for found in (self.modules, self.holders))
        return Tables(modules, parameters, buffers, plain, [copies[id(t)] for t in self.listed], holders)


def tables(model: nn.Module) -> Tables:
    """All tensors of a model, by kind."""
    walk = _walk.get()
    if walk is None or walk.model is not model:
        return _tables_of(named_modules(model))
    if walk.tables is None:
        walk.tables = _tables_of(named_modules(model))
    return walk.tables


def _tables_of(modules: Modules) -> Tables:
    found = Tables(modules)
    for path, module in found.modules:
        prefix = f"{path}." if path else ""
        if module._parameters:
            _add_named(found.parameters, prefix, module._parameters)
        if module._buffers:
            _add_named(found.buffers, prefix, module._buffers)
        attributes = vars(module)
        kinds = tuple(map(type, attributes.values()))
        if not _NO_TENSORS.issuperset(kinds):
            _add_attributes(found, prefix, attributes)
            found.holders.append((path, module))
        elif kinds.count(dict) > TORCHS_DICTS or any(map(attributes.get, hook_tables(tuple(attributes)))):
            found.holders.append((path, module))
    return found


def _add_named(found: dict[str, Any], prefix: str, named: Mapping[str, Tensor | None]) -> None:
    for name, tensor in named.items():
        if tensor is not None:
            found[prefix + name] = tensor


def _add_attributes(found: Tables, prefix: str, attributes: Mapping[str, Any]) -> None:
    for name, value in attributes.items():
        if type(value) in _NO_TENSORS:
            continue
        if isinstance(value, Tensor):
            found.plain[prefix + name] = value
        elif type(value) is list:
            found.listed.extend(item for item in value if isinstance(item, Tensor))


def is_parameter(tensor: Tensor) -> TypeGuard[nn.Parameter]:
    """Is it a parameter? torch asks in Python, which takes several times as long."""
    kind = type(tensor)
    if kind is nn.Parameter:
        return True
    return bool(getattr(tensor, "_is_param", False)) if kind is Tensor else isinstance(tensor, nn.Parameter)


def parameter_as(tensor: nn.Parameter, value: Tensor) -> nn.Parameter:
    """A parameter of the same class, with the marks that programs put on parameters (no decay, a learning rate)."""
    made: nn.Parameter
    if issubclass(type(tensor), nn.Parameter) and type(value) is Tensor:
        made = Tensor._make_subclass(type(tensor), value, tensor.requires_grad)
    else:
        made = nn.Parameter(value, requires_grad=tensor.requires_grad)
    if tensor.__dict__:
        copy_marks(tensor, made)
    return made


def copied_as(tensor: Tensor, value: Tensor) -> Tensor:
    """``value`` as what it is a copy of is: a parameter, of the same class and with its marks, or none."""
    return parameter_as(tensor, value) if is_parameter(tensor) else value


def copy_marks(tensor: Tensor, made: Tensor, copied: Callable[[Tensor], Tensor] | None = None) -> None:
    """Give a copy of a parameter what programs note on it (no decay, a learning rate, the values it began with).

    Plain values, tensors and containers of these are copied; all else is left out, as ``copy.deepcopy`` leaves out
    everything. What the copy has already stays.

    Args:
        tensor: the parameter.
        made: its copy, which is changed.
        copied: the copy of a tensor; None: those are left out.
    """
    for name, value in vars(tensor).items():
        if name in vars(made):
            continue
        if _is_plain(value):
            setattr(made, name, copy.deepcopy(value))
        elif copied is not None and _is_plain(value, (*_PLAIN, Tensor)):
            setattr(made, name, map_tensors(copied, value))


_PLAIN = (type(None), bool, int, float, str)


def _is_plain(value: Any, kinds: tuple[type, ...] = _PLAIN) -> bool:
    """Is it of one of these kinds, or a container of such? Keys, and what is in sets, must be plain in any case."""
    if isinstance(value, dict):
        return all(map(_is_plain, value)) and all(_is_plain(item, kinds) for item in value.values())
    if isinstance(value, set | frozenset):
        return all(map(_is_plain, value))
    if isinstance(value, list | tuple):
        return all(_is_plain(item, kinds) for item in value)
    return isinstance(value, kinds)


def named_tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    """All tensors by qualified name, parameters first; tied ones once, under their first name."""
    return tables(model).unique()


def all_tensors(model: nn.Module) -> Iterable[Tensor]:
    """Parameters, buffers and tensors kept as plain attributes or in a list, of every submodule, each once."""
    return tables(model).everything().values()


def class_name(kind: type) -> str:
    """The name by which a class can be found."""
    return f"{kind.__module__}.{kind.__qualname__}"


def module_kind(module: nn.Module) -> str:
    """The class of a module, with the hooks of ``torch.nn.utils`` that make its weights before each call.

    A mask of ``torch.nn.utils.prune`` is one, whatever chose it: what it multiplies a weight by is a buffer.

    >>> module_kind(nn.ReLU())
    'torch.nn.modules.activation.ReLU'
    """
    if not (module._forward_pre_hooks or module._forward_hooks):
        return class_name(type(module))
    hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    return " with ".join((class_name(type(module)), *filter(None, map(_hook_kind, hooks))))


def _hook_kind(hook: object) -> str:
    if isinstance(hook, BasePruningMethod):
        return f"a mask of {hook._tensor_name}"
    return type(hook).__name__ if type(hook).__module__.startswith("torch.nn.utils") else ""


def within(name: str, paths: Sequence[str]) -> bool:
    """Is a parameter or module inside one of these modules?"""
    return any(name.startswith(f"{path}.") for path in paths)
