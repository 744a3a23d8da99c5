"""The names of the file that is written: what each stands for, and its imports."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Collection, Hashable, Iterable
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from graphprune.export.source.source_files import SourceFile

_PUBLIC: tuple[tuple[str, Any], ...] = (("nn", nn), ("torch", torch), ("F", F), ("nn.init", nn.init))
"""Under which names things of torch are written, and where they are looked up."""

_IMPORTS = {
    "torch": "import torch",
    "nn": "from torch import nn",
    "F": "from torch.nn import functional as F",
}


_OF_THE_LOADER = ("from pathlib import Path", "from safetensors.torch import load_file")
"""What the function that loads the weights needs."""


def is_importable(module_name: str) -> bool:
    """May the written file import this module: is it one of torch or of Python itself?"""
    top = module_name.partition(".")[0]
    return top == "torch" or (top in sys.stdlib_module_names and top != "__main__")


class Names:
    """The top-level names of one file, each with one meaning."""

    def __init__(self) -> None:
        self._taken: dict[str, Hashable] = {name: ("torch", name) for name in _IMPORTS}
        self._given: dict[Hashable, str] = {}
        self._imports: set[str] = set()

    def claim(self, preferred: str, key: Hashable) -> str:
        """The name of what ``key`` stands for: the preferred one, or with a number where that is taken."""
        if key in self._given:
            return self._given[key]
        if self._taken.get(preferred) == key:
            self._given[key] = preferred
            return preferred
        name, number = preferred, 1
        while name in self._taken or hasattr(builtins, name):
            number += 1
            name = f"{preferred}{number}"
        self._taken[name] = key
        self._given[key] = name
        return name

    @property
    def taken(self) -> set[str]:
        """All names so far."""
        return set(self._taken)

    def has(self, key: Hashable) -> bool:
        """Is there a name for what ``key`` stands for?"""
        return key in self._given

    def module(self, module: ModuleType, preferred: str, avoided: Collection[str] = ()) -> str:
        """Import a module of torch or Python.

        Args:
            module: what is imported.
            preferred: what the author calls it.
            avoided: names that mean something else where it is used.
        """
        target = module.__name__
        for name, place in (("torch", torch), ("nn", nn), ("F", F)):
            if module is place and name not in avoided:
                return self._torch(name)
        name = self.claim(preferred, ("module", target))
        parent, _, last = target.rpartition(".")
        if name == target:
            self._imports.add(f"import {target}")
        elif parent and hasattr(sys.modules.get(parent), last):
            self._imports.add(f"from {parent} import {last}" + (f" as {name}" if name != last else ""))
        else:
            self._imports.add(f"import {target} as {name}")
        return name

    def member(self, module_name: str, attribute: str, preferred: str) -> str:
        """Import something from a module of torch or Python."""
        name = self.claim(preferred, ("member", module_name, attribute))
        self._imports.add(f"from {module_name} import {attribute}" + (f" as {name}" if name != attribute else ""))
        return name

    def public(self, value: Any) -> str | None:
        """How a class or function of torch is written (``nn.Conv2d``, ``F.relu``), if it is public."""
        name = getattr(value, "__name__", None)
        if not isinstance(name, str) or str(getattr(value, "__module__", None) or "torch").partition(".")[0] != "torch":
            return None
        if value is torch.Tensor:
            return self.member("torch", "Tensor", "Tensor")
        for prefix, place in _PUBLIC:
            if vars(place).get(name) is value:
                root = self._torch(prefix.partition(".")[0])
                return f"{root}{prefix[len(root) :]}.{name}" if prefix != root else f"{root}.{name}"
        return None

    def torch_object(self, value: Any) -> str:
        """How a class or function of torch or Python is written, public or not."""
        found = self.public(value)
        if found is not None:
            return found
        return self.member(value.__module__, value.__name__, value.__name__)

    def code(self, text: str) -> str:
        """Code that uses ``torch`` or ``nn``, whose import it makes sure of."""
        for name in ("torch", "nn"):
            if text.startswith(f"{name}."):
                self._torch(name)
        return text

    def _torch(self, name: str) -> str:
        self._imports.add(_IMPORTS[name])
        return self.claim(name, ("torch", name))

    def imports(self) -> list[str]:
        """The import statements of the file, in the order of isort, with an empty line after those of Python."""
        found = _merged({*self._imports, *_OF_THE_LOADER})
        own = [s for s in found if s.split()[1].partition(".")[0] not in ("torch", "safetensors")]
        others = [s for s in found if s not in own]
        return [*sorted(own, key=_order), "", *sorted(others, key=_order)]


def _order(statement: str) -> tuple[bool, str, bool]:
    return statement.startswith("from"), statement.split()[1], " as " in statement


def _merged(statements: Iterable[str]) -> list[str]:
    """Imports from one module in one statement."""
    members: dict[str, list[str]] = {}
    found = []
    for statement in statements:
        if statement.startswith("from ") and " as " not in statement:
            module, _, name = statement.removeprefix("from ").partition(" import ")
            members.setdefault(module, []).append(name)
        else:
            found.append(statement)
    return found + [f"from {module} import {', '.join(sorted(names, key=_isort))}" for module, names in members.items()]


def _isort(name: str) -> tuple[int, str]:
    plain = name.split()[0]
    return 0 if plain.isupper() and len(plain) > 1 else 1 if plain[:1].isupper() else 2, plain


def imported_from(file: SourceFile | None, name: str) -> tuple[str, str | None] | None:
    """The module and the member that a name of a file is imported from, if that is torch or Python."""
    entry = file.imports.get(name) if file is not None else None
    if entry is None or entry[2] or not is_importable(entry[0]):
        return None
    return entry[0], entry[1]
