"""Put other tensors in the place of those that a model holds, wherever it holds them."""

from __future__ import annotations

import functools
import weakref
from collections import OrderedDict, deque
from collections.abc import Mapping
from types import BuiltinMethodType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from graphprune.utils.copier import ATOMIC
from graphprune.utils.held import attribute_table, contents, slot_values

_LEFT_ALONE = (type, ModuleType, weakref.ref, *weakref.ProxyTypes, Optimizer)
"""An optimizer has a state for each parameter, which is to follow: see :mod:`graphprune.pruning.optimizer`."""
_TABLES = frozenset((dict, OrderedDict, list, set))
_FIXED = (tuple, frozenset, functools.partial, MethodType)
"""What is made anew where a part of it is another one."""


def exchange_tensors(model: nn.Module, replaced: Mapping[int, Tensor]) -> None:
    """Put tensors in the place of others in the modules of a model, and in the functions, containers and objects there.

    What cannot be changed (a tuple, a ``functools.partial``) is made anew where it holds one. Modules of others,
    such as a teacher in a list, keep theirs: the parts of them that are not the model's would not fit any more. Those
    of which every parameter is the model's, such as blocks in a list beside a ``ParameterList``, are its own.

    Args:
        model: is changed.
        replaced: by the identity of a tensor, what takes its place.
    """
    _Exchange(replaced, model).within(model)


class _Exchange:
    """What was looked into so far, and what is to be."""

    def __init__(self, replaced: Mapping[int, Tensor], model: nn.Module) -> None:
        self._replaced = replaced
        self._modules = {id(module) for module in model.modules()}
        self._parameters = {*replaced, *(id(parameter) for parameter in model.parameters())}
        self._found: dict[int, tuple[Any, Any]] = {}
        self._waiting: list[Any] = []

    def within(self, root: Any) -> None:
        """Exchange the tensors of all that can be reached."""
        self._new(root)
        while self._waiting:
            self._refill(self._waiting.pop())

    def _new(self, value: Any) -> Any:
        """What takes the place of a value: itself, if it can be changed; that is done later."""
        kind = type(value)
        if kind in ATOMIC or (kind in _TABLES and not value):
            return value
        if issubclass(kind, Tensor):
            return self._replaced.get(id(value), value)
        if id(value) not in self._found and not self._is_left_alone(kind, value):
            fixed = issubclass(kind, _FIXED)
            self._found[id(value)] = (value, self._remade(value) if fixed else value)  # no other gets its identity
            if not fixed:
                self._waiting.append(value)
        return self._found.get(id(value), (value, value))[1]

    def _is_left_alone(self, kind: type, value: Any) -> bool:
        return issubclass(kind, _LEFT_ALONE) or (issubclass(kind, nn.Module) and not self._is_own(value))

    def _is_own(self, module: nn.Module) -> bool:
        """Is it the model's, or made of parameters of the model alone?"""
        if id(module) in self._modules:
            return True
        found = [id(parameter) for parameter in module.parameters()]
        return bool(found) and self._parameters.issuperset(found)

    def _remade(self, value: Any) -> Any:
        """A value that cannot be changed, with what takes the place of its parts; itself where they stay."""
        if isinstance(value, functools.partial):
            return self._partial(value)
        if isinstance(value, MethodType):
            owner, function = self._new(value.__self__), self._new(value.__func__)
            return value if owner is value.__self__ else MethodType(function, owner)
        return self._collection(value)

    def _collection(self, value: Any) -> Any:
        if ATOMIC.issuperset(map(type, value)):
            return value
        items = [self._new(item) for item in value]
        if all(a is b for a, b in zip(value, items, strict=True)):
            return value
        return _collection_of(type(value), items)

    def _partial(self, value: functools.partial[Any]) -> Any:
        function, args = self._new(value.func), self._new(value.args)
        keywords = {name: self._new(item) for name, item in value.keywords.items()}
        same = all(item is value.keywords[name] for name, item in keywords.items())
        if function is value.func and args is value.args and same:
            return value
        made = type(value)(function, *args, **keywords)
        vars(made).update(vars(value))
        return made

    def _refill(self, value: Any) -> None:
        """Put what takes their place into what can be changed."""
        if issubclass(type(value), FunctionType):
            self._function(value)
        elif issubclass(type(value), dict):
            self._table(value)
        elif issubclass(type(value), list | deque):
            kind = list if issubclass(type(value), list) else deque
            for i, item in enumerate(kind.__iter__(value)):
                if (new := self._new(item)) is not item:
                    kind.__setitem__(value, i, new)
        elif issubclass(type(value), set):
            for item in [item for item in value if self._new(item) is not item]:
                value.remove(item)
                value.add(self._new(item))
        elif issubclass(type(value), BuiltinMethodType):
            self._new(value.__self__)  # ``self.items.append`` belongs to the list
        self._attributes(value)

    def _table(self, table: dict[Any, Any]) -> None:
        keys = [key for key in dict.keys(table) if type(key) not in ATOMIC and self._new(key) is not key]
        for key, item in dict.items(table):
            if (new := self._new(item)) is not item:
                dict.__setitem__(table, key, new)
        if keys:
            kind = OrderedDict if issubclass(type(table), OrderedDict) else dict
            entries = [(self._new(key), item) for key, item in dict.items(table)]
            kind.clear(table)
            kind.update(table, entries)

    def _attributes(self, value: Any) -> None:
        table = attribute_table(value)
        if table:
            self._table(table)
        for name, item in slot_values(value).items():
            if (new := self._new(item)) is not item:
                object.__setattr__(value, name, new)

    def _function(self, function: FunctionType) -> None:
        for cell in function.__closure__ or ():
            for item in contents(cell):
                if (new := self._new(item)) is not item:
                    cell.cell_contents = new
        if function.__defaults__:
            function.__defaults__ = self._new(function.__defaults__)
        if function.__kwdefaults__:
            self._table(function.__kwdefaults__)


def _collection_of(kind: Any, items: list[Any]) -> Any:
    """A tuple or set of a class, past a constructor of its own."""
    make: Any = tuple.__new__
    return make(kind, items) if issubclass(kind, tuple) else kind(items)
