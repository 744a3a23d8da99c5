"""Arguments of a call with objects of its own: what a run keeps in them, a cache say, the next one is not to find."""

from __future__ import annotations

from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from torch import Tensor, nn

from graphprune.utils.copier import ATOMIC, Copier
from graphprune.utils.held import attribute_table, held_by, reachable, tensors_in_objects
from graphprune.utils.tree import LEAVES, is_mapped

_ATOMIC = LEAVES | ATOMIC
_SHARED = (Tensor, nn.Module, type, FunctionType, BuiltinFunctionType, ModuleType)


def own_copy(tensor: Tensor) -> Tensor:
    """A tensor of the same values that a run may write to; it has a gradient where the other one has."""
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def with_own_objects(given: Any, held: Callable[[Tensor], Tensor] = own_copy) -> Any:
    """The same arguments with copies of the objects in them, and of the tensors that these hold.

    Other tensors, modules, classes and functions are not copied, and neither is what cannot be.

    Args:
        given: nested tuples, lists, mappings and dataclasses.
        held: makes the copies of tensors in objects.
    """
    objects, others = _held_in(given)
    if not objects:
        return given
    modules = [found for found in reachable(objects) if isinstance(found, nn.Module)]
    kept = {id(found): found for found in (None, *others, *modules)}
    tensors = {id(tensor): held(tensor) for tensor in tensors_in_objects(objects, kept)}
    copier = _copier({**kept, **tensors})
    copies = {id(value): copier.copied(value) for value in objects}
    return _copier({**kept, **copies}).copied(given)


def _copier(memo: dict[int, Any]) -> Copier:
    return Copier(memo, set, lambda path, value, error: value)


def _held_in(given: Any) -> tuple[list[Any], list[Any]]:
    """What the containers hold of which ``map_tensors`` makes new ones: the objects to copy, and what is not copied.

    Attributes of containers count: a dictionary of a class of its own is copied with the same ones.
    """
    objects: list[Any] = []
    others: list[Any] = []
    seen: dict[int, Any] = {}
    stack = [given]
    while stack:
        value = stack.pop()
        kind = type(value)
        if kind in _ATOMIC or id(value) in seen:
            continue
        seen[id(value)] = value
        if isinstance(value, _SHARED):
            others.append(value)
        elif kind is dict:
            stack += value.values()
        elif kind is tuple or kind is list:
            stack += value
        elif is_mapped(value):
            stack += held_by(value)
        else:
            (objects if _may_change(value) else others).append(value)
    return objects, others


def _may_change(value: Any) -> bool:
    """Has it any state? What has none, as ``object()``, is known by its identity."""
    return attribute_table(value) is not None or type(value).__basicsize__ > object.__basicsize__
