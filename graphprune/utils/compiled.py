"""What ``torch.compile`` puts around modules, and into the names of what they hold."""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import Any

from torch import nn


def uncompiled(model: nn.Module) -> nn.Module:
    """The module that ``torch.compile`` was given; any other as it is."""
    found: Any = model._orig_mod if _is_compiled(type(model)) else model  # type: ignore[arg-type]  # by identity
    return found  # type: ignore[no-any-return]


def uncompiled_name(name: str) -> str:
    """The name that a parameter or module of what ``torch.compile`` returned has in what it was given.

    >>> uncompiled_name("_orig_mod.conv.weight")
    'conv.weight'
    """
    return name.removeprefix("_orig_mod.")


def bare_name(name: str) -> str:
    """The name that it would have if no submodule were compiled either.

    >>> bare_name("blocks.0._orig_mod.conv.weight")
    'blocks.0.conv.weight'
    """
    return name.replace("_orig_mod.", "")


@lru_cache(maxsize=1024)
def _is_compiled(kind: type[nn.Module]) -> bool:
    """Is it the class of what ``torch.compile`` returns? Importing that would load the compiler."""
    names = [(base.__module__.rpartition(".")[0], base.__name__) for base in kind.__mro__]
    return ("torch._dynamo", "OptimizedModule") in names


def compiled_as(model: nn.Module, inner: nn.Module) -> nn.Module:
    """A module, compiled as ``model`` is, if that is what ``torch.compile`` returned."""
    return inner if uncompiled(model) is model else copy.deepcopy(model, {id(uncompiled(model)): inner})
