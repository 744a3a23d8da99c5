"""Tensors in nested tuples, lists, mappings and dataclasses."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping, MutableMapping, ValuesView
from copy import copy
from dataclasses import fields, is_dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, fx
from torch.distributions import Distribution, Transform

PLAIN = frozenset((type(None), bool, int, float, str, torch.dtype, torch.device, torch.layout))
"""What most arguments are that are no tensors, and no nodes that stand for such."""
LEAVES = PLAIN | {fx.Node}
"""What most arguments are that are no tensors. Looking for fields in them takes several times as long."""


def tensors_of(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists, mappings and dataclasses, in order."""
    if type(value) in LEAVES:
        return
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            if type(item) not in LEAVES:
                yield from tensors_of(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_of(item)
    elif _holds_fields(value):
        for item in _attributes(value).values():
            yield from tensors_of(item)


def output_tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in what a model returns, in order: those of :func:`tensors_of`, and parameters of distributions."""
    if isinstance(value, Tensor):
        yield value
    else:
        for item in _items(value):
            yield from output_tensors(item)


def dense_outputs(value: Any) -> Iterator[Tensor]:
    """:func:`output_tensors` as they are compared: sparse ones as dense ones, nested ones part by part."""
    for tensor in output_tensors(value):
        yield from tensor.unbind() if tensor.is_nested else (as_dense(tensor),)


def as_dense(tensor: Tensor) -> Tensor:
    """A sparse tensor with all of its entries; others as they are."""
    return tensor if tensor.layout in (torch.strided, torch.jagged) else tensor.to_dense()


def iterators_in(value: Any) -> Iterator[Iterator[Any]]:
    """Generators and the like in what a model returns: what they hold cannot be seen without reading them."""
    if isinstance(value, Iterator):
        yield value
    elif not isinstance(value, Tensor):
        for item in _items(value):
            yield from iterators_in(item)


def _items(value: Any) -> Iterable[Any]:
    """What a result holds directly."""
    if isinstance(value, tuple | list | deque | ValuesView | ItemsView):
        return value
    if isinstance(value, Mapping):
        return value.values()
    if isinstance(value, Distribution | Transform | SimpleNamespace):
        return vars(value).values()
    return _attributes(value).values() if _holds_fields(value) else ()


def _holds_fields(value: Any) -> bool:
    return is_dataclass(value) and not isinstance(value, type)


def _attributes(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, and tensors that ``__post_init__`` or a caller has given it besides."""
    own = {entry.name: getattr(value, entry.name) for entry in fields(value) if hasattr(value, entry.name)}
    return own | {name: t for name, t in getattr(value, "__dict__", {}).items() if isinstance(t, Tensor)}


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Apply ``function`` to every tensor in nested tuples, lists, dicts and dataclasses."""
    kind = type(value)
    if kind in LEAVES:
        return value
    if isinstance(value, Tensor):
        return function(value)
    if kind is tuple or kind is list:
        if LEAVES.issuperset(map(type, value)):
            return kind(value)
        return kind(
            [
                v if type(v) in LEAVES else function(v) if isinstance(v, Tensor) else map_tensors(function, v)
                for v in value
            ]
        )
    if kind is dict:
        return {k: map_tensors(function, v) for k, v in value.items()}
    if isinstance(value, tuple):
        items = tuple(map_tensors(function, v) for v in value)
        return type(value)._make(items) if hasattr(value, "_fields") else items  # type: ignore[attr-defined]
    if _holds_fields(value):
        # ModelOutput of Transformers keeps its fields as items as well: it is made anew
        return _made_anew(function, value) if isinstance(value, Mapping) else _map_attributes(function, value)
    return _map_container(function, value) if isinstance(value, list | MutableMapping) else value


def replaced(function: Callable[[Any], Any], value: Any, kinds: Any) -> Any:
    """Nested tuples, lists and dicts with everything of ``kinds`` in them passed through ``function``."""
    if isinstance(value, kinds):
        return function(value)
    if isinstance(value, dict):
        return {k: replaced(function, v, kinds) for k, v in value.items()}
    if isinstance(value, tuple | list):
        made = getattr(type(value), "_make", type(value))  # named tuples take their fields one by one
        return made([replaced(function, v, kinds) for v in value])
    return value


def _map_attributes(function: Callable[[Tensor], Any], value: Any) -> Any:
    """The same for a dataclass, which is not made anew: it may ask for what it does not keep (``InitVar``)."""
    made = copy(value)
    for name, item in _attributes(value).items():
        object.__setattr__(made, name, map_tensors(function, item))
    return made


def _made_anew(function: Callable[[Tensor], Any], value: Any) -> Any:
    entries = (entry.name for entry in fields(value) if entry.init)
    return replace(value, **{name: map_tensors(function, getattr(value, name)) for name in entries})


def is_mapped(value: Any) -> bool:
    """Is it a container of which :func:`map_tensors` makes a new one?"""
    return isinstance(value, tuple | list | MutableMapping) or _holds_fields(value)


def _map_container(function: Callable[[Tensor], Any], value: Any) -> Any:
    """The same for a list or mapping of a class of its own, which the result has too."""
    made = copy(value)
    if isinstance(value, list):
        list.__setitem__(made, slice(None), [map_tensors(function, v) for v in value])
    else:
        for key, item in value.items():
            made[key] = map_tensors(function, item)
    return made
