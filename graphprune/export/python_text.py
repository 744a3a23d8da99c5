"""Values as Python expressions, with the imports that these need."""

from __future__ import annotations

import functools
import inspect
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from itertools import chain, count
from types import MappingProxyType
from typing import Any

import torch

from graphprune.errors import ExportError
from graphprune.export.import_names import import_name
from graphprune.utils.checks import found_value, with_article

WIDTH = 100


class Expressions:
    """Expressions of one file.

    Args:
        reserved: names that the file gives a meaning of its own, with the module that it imports them from, if any;
            what is imported from others and called so has another name there.

    Attributes:
        imports: by the name that the file uses, the module and the name there that it is imported from.
        constants: by name, the dictionaries that configurations are made from.
    """

    def __init__(self, reserved: Mapping[str, str] = MappingProxyType({})) -> None:
        self.imports: dict[str, tuple[str, str]] = {}
        self._reserved = reserved
        self.constants: dict[str, dict[str, Any]] = {}

    def of(self, value: Any) -> str:
        """An expression that makes an equal value.

        Raises:
            ExportError: the value is of a kind that cannot be written, or cannot be imported.
        """
        if isinstance(value, float) and not math.isfinite(value):
            return f'float("{value}")'
        if type(value) in (bool, int, float, str, type(None)):
            return _literal(value)
        if isinstance(value, torch.dtype):
            return repr(value)
        if type(value) in (tuple, list, dict):
            return self._container(value)
        if isinstance(value, functools.partial):
            return f"{self.of(functools.partial)}({self.arguments((value.func, *value.args), value.keywords)})"
        if inspect.isclass(value) or inspect.isroutine(value):
            return self.imported(value)
        return self._object(value)

    def call(self, function: Any, *args: Any, **kwargs: Any) -> str:
        """A call of something that can be imported."""
        return f"{self.of(function)}({self.arguments(args, kwargs)})"

    def arguments(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """What stands between the parentheses of a call."""
        return ", ".join([*map(self.of, args), *(f"{name}={self.of(value)}" for name, value in kwargs.items())])

    def imported(self, thing: Any) -> str:
        """The expression for a class or function.

        Raises:
            ExportError: another process could not import it.
        """
        module, name = import_name(str(getattr(thing, "__module__", None))), getattr(thing, "__qualname__", "")
        if module == "builtins":
            return str(name)
        found = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is not thing or module == "__main__":
            where = "the program itself" if module == "__main__" else f"{module}, which does not have it by that name"
            raise ExportError(
                f"factory: {name or thing!r} is defined in {where}, so another process cannot import it",
                where=f"{module}.{name}",
                found=f"a definition in {where}",
                needed="a name at the top level of a module",
                do="move it into a module of its own, at the top level",
            )
        top, dot, rest = name.partition(".")
        return f"{self._name_of(module, top)}{dot}{rest}"

    def _name_of(self, module: str, name: str) -> str:
        """The name that the file has for one of a module: its own, or another one if that is taken."""
        meant, prefix = (module, name), module.replace(".", "_")
        for own in chain((name, f"{prefix}_{name}"), (f"{prefix}_{name}_{number}" for number in count(2))):
            if self._reserved.get(own, module) == module and self.imports.setdefault(own, meant) == meant:
                return own
        raise AssertionError("numbers do not end")

    def import_lines(self) -> Iterator[str]:
        """One for each module, in alphabetical order."""
        for module in sorted({module for module, _ in self.imports.values()}):
            pairs = sorted((name, own) for own, (home, name) in self.imports.items() if home == module)
            names = (name if name == own else f"{name} as {own}" for name, own in pairs)
            yield f"from {module} import {', '.join(names)}"

    def _container(self, value: Any) -> str:
        if isinstance(value, dict):
            return f"{{{', '.join(f'{self.of(key)}: {self.of(item)}' for key, item in value.items())}}}"
        items = ", ".join(map(self.of, value))
        return f"[{items}]" if isinstance(value, list) else f"({items}{',' if len(value) == 1 else ''})"

    def _object(self, value: Any) -> str:
        """A configuration that can be made from a dictionary, or an instance of a data class."""
        if hasattr(value, "to_diff_dict") and hasattr(type(value), "from_dict"):
            name = f"CONFIG_{len(self.constants)}" if self.constants else "CONFIG"
            self.constants[name] = _own_entries(value)
            return f"{self.imported(type(value))}.from_dict({name})"
        if is_dataclass(value):
            return self.call(type(value), **{f.name: getattr(value, f.name) for f in fields(value) if f.init})
        raise ExportError(
            f"factory: an argument is {with_article(type(value).__name__)}, which cannot be written as Python",
            found=found_value(value),
            needed="numbers, strings, configurations and dataclasses, and lists, tuples and dicts of them",
            do="pass a function without arguments that makes the model, importable from a module",
        )


def _own_entries(config: Any) -> dict[str, Any]:
    """What differs from the default configuration, but for what only files note, such as the library's version."""
    return {k: v for k, v in config.to_diff_dict().items() if getattr(config, k, v) is not None or v is None}


def _literal(value: Any) -> str:
    """As formatters write it: strings in double quotes."""
    if not isinstance(value, str) or '"' in value or "\\" in repr(value):
        return repr(value)
    return f'"{value}"'


def assigned(name: str, value: Any) -> str:
    """An assignment to a constant, one entry a line where it is long."""
    return f"{name} = {literal_lines(value)}\n"


def literal_lines(value: Any, indent: int = 0) -> str:
    """A literal of numbers, strings and containers, broken into lines as formatters do."""
    text = Expressions().of(value)
    if not isinstance(value, dict | list | tuple) or not value or len(text) + indent <= WIDTH:
        return text
    pad = " " * (indent + 4)
    if isinstance(value, dict):
        lines = [f"{pad}{literal_lines(key)}: {literal_lines(item, indent + 4)},\n" for key, item in value.items()]
    else:
        lines = [f"{pad}{literal_lines(item, indent + 4)},\n" for item in value]
    around = {dict: "{}", list: "[]"}.get(type(value), "()")
    return f"{around[0]}\n{''.join(lines)}{' ' * indent}{around[1]}"
