"""Tensors in nested tuples, lists and mappings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

from graphprune.sizes import Size


def tensors_of(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and mappings, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_of(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_of(item)


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Apply ``function`` to every tensor in nested tuples, lists and dicts; sizes become plain ints."""
    if isinstance(value, Tensor):
        return function(value)
    kind = type(value)
    if kind is Size:
        return int(value)
    if kind is tuple or kind is list:
        return kind([map_tensors(function, v) for v in value])
    if kind is dict:
        return {k: map_tensors(function, v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return tuple(map_tensors(function, v) for v in value)
    return value
