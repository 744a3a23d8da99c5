"""Things that are built when they are needed, from libraries that may not be there."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.zoos.common import NotInstalled

Make = Callable[[], nn.Module]
Table = dict[str, tuple[Make, Callable[[], Any]] | tuple[Make, Callable[[], Any], Callable[[int], Any]]]
"""A model's name, which begins with its library, to what builds it and its inputs, and if need be training batches."""


@dataclass(frozen=True)
class Later:
    """A call of something in a library: ``"package.module:name"`` with arguments, in which others may stand."""

    path: str
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self) -> Any:
        found = found_in_library(self.path)
        return found(*_built(self.arguments), **_built(self.options))


def later(path: str, /, *arguments: Any, **options: Any) -> Later:
    """A call that is not made yet."""
    return Later(path, arguments, options)


def found_in_library(path: str) -> Any:
    """What ``"package.module:name.attribute"`` is.

    Raises:
        NotInstalled: If the library, or one that it imports, is not there.
    """
    module, _, names = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise NotInstalled(f"{module} needs {error.name}, which is not installed") from error
    for name in names.split("."):
        found = getattr(found, name)
    return found


def _built(value: Any) -> Any:
    """The value, with calls in it made."""
    if isinstance(value, Later):
        return value()
    if isinstance(value, dict):
        return {key: _built(part) for key, part in value.items()}
    return type(value)(_built(part) for part in value) if isinstance(value, (tuple, list)) else value


def noise(*shape: int) -> Tensor:
    """The same noise every time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def tokens(*shape: int, below: int = 64) -> Tensor:
    """The same ids every time, from 1."""
    return torch.randint(1, below, shape, generator=torch.Generator().manual_seed(0))
