"""Values of attributes as expressions: numbers, containers, functions, classes, settings, parts of the model."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import enum
import functools
import inspect
import math
import types
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphprune.export.source.collecting import Collector, is_of_torch, plain_function, unwritable
from graphprune.export.source.expressions import Argument, Code, Display, Expression, Invocation, many
from graphprune.export.source.paths import inner_path
from graphprune.export.source.source_files import source_file
from graphprune.utils.held import global_names

_LONGEST_TENSOR = 16
"""Entries of a tensor that is written as a literal."""

_SCALARS = (bool, int, float, complex, str, bytes)

_TORCH_CONSTANTS = (torch.dtype, torch.layout, torch.memory_format)


class Values:
    """Writes values for one file.

    Args:
        collector: defines what the values refer to.
        paths: by identity, the paths of all modules and tensors of the model.
        build: the expression that builds a module which is not part of the model.
    """

    def __init__(
        self, collector: Collector, paths: dict[int, str], build: Callable[[nn.Module, list[str]], Expression]
    ) -> None:
        self._collector = collector
        self._names = collector.names
        self._paths = paths
        self._build = build

    def expression(self, value: Any, where: str, owner: str, needs: list[str]) -> Expression:
        """The expression of a value that the module at the path ``owner`` holds.

        Raises:
            ExportError: it cannot be written.
        """
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or type(value) in _SCALARS:
            return Code(scalar_text(value))
        found = self._of_torch(value, owner)
        if found is None:
            found = self._container(value, where, owner, needs)
        if found is None:
            found = self._function_or_class(value, where, owner, needs)
        if found is None:
            found = self._object(value, where, owner, needs)
        return found

    def _of_torch(self, value: Any, owner: str) -> Expression | None:
        if isinstance(value, _TORCH_CONSTANTS):
            return Code(self._names.code(str(value)))
        if isinstance(value, torch.device):
            return Code(self._names.code(f"torch.device({_quoted(str(value))})"))
        if isinstance(value, torch.Size):
            return Code(self._names.code(f"torch.Size({list(value)})"))
        if isinstance(value, Tensor) and id(value) not in self._paths and _is_small(value):
            return self.tensor_literal(value)
        if id(value) in self._paths and isinstance(value, nn.Module | Tensor):
            inner = inner_path(owner, self._paths[id(value)])
            return None if inner is None else Code(f"self{inner}")
        return None

    def tensor_literal(self, value: Tensor) -> Expression:
        """``torch.tensor([0.5, 0.25])``."""
        default = {torch.float32, torch.int64, torch.bool}
        typed = "" if value.dtype in default else f", dtype={value.dtype}"
        values = repr(value.tolist()).replace("inf", 'float("inf")').replace("nan", 'float("nan")')
        return Code(self._names.code(f"torch.tensor({values}{typed})"))

    # ------------------------------------------------------------ containers

    def _container(self, value: Any, where: str, owner: str, needs: list[str]) -> Expression | None:
        kind = type(value)

        def all_of(entries: Any) -> tuple[Expression, ...]:
            return tuple(self.expression(entry, where, owner, needs) for entry in entries)

        if kind in (list, tuple):
            return Display("[]" if kind is list else "()", all_of(value))
        if kind in (set, frozenset):
            shown = Display("{}", all_of(sorted(value, key=repr))) if value else Code("set()")
            return Invocation("frozenset", many([shown])) if kind is frozenset else shown
        if kind in (dict, OrderedDict):
            keys = tuple(self._flat(key, where, owner, needs) for key in value)
            shown = Display("{}", all_of(value.values()), keys)
            if kind is dict:
                return shown
            return Invocation(self._names.member("collections", "OrderedDict", "OrderedDict"), many([shown]))
        if kind in (slice, range):
            return Invocation(kind.__name__, many(all_of((value.start, value.stop, value.step))))
        if isinstance(value, tuple) and hasattr(kind, "_fields"):
            return self._with_fields(value, kind, list(kind._fields), where, owner, needs)
        return None

    def _flat(self, key: Any, where: str, owner: str, needs: list[str]) -> str:
        found = self.expression(key, where, owner, needs)
        if isinstance(found, Code):
            return found.text
        from_tuple = ", ".join(scalar_text(k) for k in key)
        return f"({from_tuple})"

    # ------------------------------------------------------------ functions and classes

    def _function_or_class(self, value: Any, where: str, owner: str, needs: list[str]) -> Expression | None:
        if isinstance(value, functools.partial):
            return self._partial(value, where, owner, needs)
        if isinstance(value, types.MethodType):
            return self._bound_method(value, where, owner)
        if isinstance(value, types.ModuleType | nn.Module):
            return None
        public = self._names.public(value)
        if public is not None:
            return Code(public)
        if callable(value) and is_of_torch(value):
            return Code(self._names.torch_object(value))
        if isinstance(value, type):
            return Code(self._collector.define_class(value, where, needs))
        is_function = isinstance(value, types.FunctionType) or hasattr(value, "__wrapped__")
        function = plain_function(value) if is_function else None
        if function is None:
            return None
        if function.__closure__:
            names = ", ".join(function.__code__.co_freevars)
            what = "lambda" if function.__name__ == "<lambda>" else "function"
            raise unwritable(
                f"is a {what} that was made within another function and holds its variables {names}",
                where,
                "make it a method, or a class with attributes",
            )
        if function.__name__ == "<lambda>":
            return Code(self._lambda(function, where))
        return Code(self._collector.define_function(value, where, needs))

    def _partial(self, value: Any, where: str, owner: str, needs: list[str]) -> Expression:
        name = self._names.member("functools", "partial", "partial")
        function = self.expression(value.func, where, owner, needs)
        positional = [self.expression(v, where, owner, needs) for v in value.args]
        named = ((k, self.expression(v, where, owner, needs)) for k, v in value.keywords.items())
        return Invocation(name, (*many([function, *positional]), *(Argument(k, v, keyword=True) for k, v in named)))

    def _bound_method(self, value: types.MethodType, where: str, owner: str) -> Expression:
        inner = inner_path(owner, self._paths.get(id(value.__self__), "?"))
        if inner is None:
            raise unwritable(f"is a method of {type(value.__self__).__name__}, which is no part of that module", where)
        self._collector.read.add(value.__func__.__name__)
        return Code(f"self{inner}.{value.__func__.__name__}")

    def _lambda(self, function: types.FunctionType, where: str) -> str:
        """The source of a lambda that uses nothing but its arguments and torch."""
        code = function.__code__
        file = source_file(code.co_filename, function.__globals__)
        nodes = [n for n in ast.walk(file.tree) if isinstance(n, ast.Lambda)] if file is not None else []
        fitting = [n for n in nodes if n.lineno == code.co_firstlineno]
        names = global_names(code) - {"torch", "F", "nn", "math"}
        meant = {"torch": torch, "nn": nn, "F": torch.nn.functional, "math": math}
        same = all(function.__globals__.get(n) is meant[n] for n in global_names(code) & meant.keys())
        if file is None or len(fitting) != 1 or names or not same:
            raise unwritable("is a lambda that cannot be taken out of its line", where, "write it as a function")
        for name in global_names(code):
            self._names.module(meant[name], name)
        return " ".join(file.text(fitting[0]).split())

    # ------------------------------------------------------------ objects

    def _object(self, value: Any, where: str, owner: str, needs: list[str]) -> Expression:
        kind = type(value)
        if isinstance(value, enum.Enum):
            return Code(f"{self._class(kind, where, needs)}.{value.name}")
        if dataclasses.is_dataclass(value):
            fields = [f.name for f in dataclasses.fields(value) if f.init]
            return self._with_fields(value, kind, fields, where, owner, needs)
        if isinstance(value, nn.Module) and not any(True for _ in value.parameters()):
            return self._build(value, needs)
        if isinstance(value, int | float | str):  # a subclass that behaves as one
            return self.expression(
                next(t(value) for t in (int, float, str) if isinstance(value, t)), where, owner, needs
            )
        if self._is_settings(value):
            name = self._names.member("types", "SimpleNamespace", "SimpleNamespace")
            entries = {k: v for k, v in vars(value).items() if self._collector.reads(k)}
            named = ((k, self.expression(v, f"{where}.{k}", owner, needs)) for k, v in entries.items())
            return Invocation(name, tuple(Argument(k, v, keyword=True) for k, v in named))
        raise unwritable(f"is a {kind.__module__}.{kind.__qualname__}", where)

    def _class(self, kind: type, where: str, needs: list[str]) -> str:
        return self._names.torch_object(kind) if is_of_torch(kind) else self._collector.define_class(kind, where, needs)

    def _is_settings(self, value: Any) -> bool:
        """Is it an object whose attributes are read, and nothing else?"""
        if isinstance(value, types.SimpleNamespace | argparse.Namespace):
            return True
        kind = type(value)
        if not hasattr(value, "__dict__") or is_of_torch(kind) or isinstance(value, nn.Module) or callable(value):
            return False
        used = (n for k in kind.__mro__[:-1] for n, v in vars(k).items() if _is_behavior(n, v))
        return not any(self._collector.reads(name) for name in used) and _behaves_plainly(kind)

    def _with_fields(
        self, value: Any, kind: type, fields: list[str], where: str, owner: str, needs: list[str]
    ) -> Expression:
        arguments = []
        parameters = inspect.signature(kind).parameters
        for name in fields:
            default = parameters[name].default if name in parameters else inspect.Parameter.empty
            found = getattr(value, name)
            if default is not inspect.Parameter.empty and type(default) is type(found) and default == found:
                continue
            expression = self.expression(found, f"{where}.{name}", owner, needs)
            arguments.append(Argument(name, expression, keyword=True))
        return Invocation(self._class(kind, where, needs), tuple(arguments))


def scalar_text(value: Any) -> str:
    """A number, a string or None as code."""
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return _quoted(value) if isinstance(value, str) else repr(value)


def _quoted(text: str) -> str:
    found = repr(text)
    return f'"{found[1:-1]}"' if found[0] == "'" and '"' not in found else found


def _is_small(value: Tensor) -> bool:
    return value.numel() <= _LONGEST_TENSOR and not value.requires_grad and value.device.type != "meta"


def _is_behavior(name: str, value: Any) -> bool:
    return not name.startswith("__") and (callable(value) or hasattr(value, "__get__"))


_INHERITED = ("__call__", "__getattr__", "__getitem__", "__iter__", "__len__", "__bool__", "__contains__")


def _behaves_plainly(kind: type) -> bool:
    return not any(name in vars(k) for k in kind.__mro__[:-1] for name in _INHERITED)
