"""Calls that are not looked into: operators that run functions (``flex_attention``, ``cond``), and nested tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator

from graphprune.utils.operators import Args, DispatchMode, Kwargs
from graphprune.utils.tree import replaced, tensors_of


@dataclass(frozen=True)
class OnNested:
    """An operator called with nested tensors, or that makes some: these have no sizes, and so no channels."""

    operator: Any

    def name(self) -> str:
        """The name of the operator."""
        return str(self.operator.name())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.operator(*args, **kwargs)


def is_opaque(op: Any) -> bool:
    """Is a call of an operator not looked into? One that runs functions, or has to do with nested tensors."""
    return isinstance(op, HigherOrderOperator | OnNested)


def any_nested(value: Any) -> bool:
    """Is one of the tensors in nested arguments a nested tensor?"""
    if isinstance(value, Tensor):
        return value.is_nested
    if type(value) is tuple and _ONE.issuperset(map(type, value)):  # the results of most operations
        return bool([t for t in value if t.is_nested])
    return any(t.is_nested for t in tensors_of(value))


_ONE = frozenset((Tensor, nn.Parameter))


class ReadTensors(DispatchMode):
    """Note every tensor that operations read.

    Attributes:
        found: the tensors by identity.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Args = (), kwargs: Kwargs | None = None) -> Any:
        self.found.update((id(t), t) for t in tensors_of((args, kwargs or {})))
        return func(*args, **(kwargs or {}))


def watched_functions(value: Any, mode: ReadTensors) -> Any:
    """Nested arguments with every function among them run under ``mode``: what it reads is an input of the operator."""
    return replaced(lambda one: one if isinstance(one, Tensor | type) else _watched(one, mode), value, Callable)


def _watched(function: Callable[..., Any], mode: ReadTensors) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with mode, torch._C._EnableTorchFunction():  # by which flex_attention of torch 2.8 sees how tensors are indexed
            return function(*args, **kwargs)

    return call
