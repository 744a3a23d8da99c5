"""Arguments of a call with objects of its own: what a run keeps in them, a cache say, the next one is not to find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from graphprune.utils.copier import Copier
from graphprune.utils.held import attribute_table, reachable, tensors_in_objects
from graphprune.utils.tree import LEAVES, map_tensors, tensors_of


def _own_copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def with_own_objects(given: Any, held: Callable[[Tensor], Tensor] = _own_copy) -> Any:
    """The same arguments with copies of the objects in them, and of the tensors that these hold.

    Other tensors, modules and functions are not copied, and neither is what cannot be.

    Args:
        given: nested tuples, lists and dicts.
        held: makes the copies of tensors in objects.
    """
    objects = _objects_in(given)
    if not objects:
        return given
    modules = [found for found in reachable(objects) if isinstance(found, nn.Module)]
    kept = {id(found): found for found in (None, *tensors_of(given), *modules)}
    tensors = {id(tensor): held(tensor) for tensor in tensors_in_objects(objects, kept)}
    copier = Copier({**kept, **tensors}, set, lambda path, value, error: value)
    return _exchanged(given, {id(value): copier.copied(value) for value in objects})


def _objects_in(given: Any) -> list[Any]:
    kind = type(given)
    if kind in LEAVES or isinstance(given, Tensor | nn.Module | type) or callable(given):
        return []
    if kind in (tuple, list, dict):
        items = given.values() if kind is dict else given
        return [found for item in items if type(item) not in LEAVES for found in _objects_in(item)]
    is_mapped = map_tensors(lambda tensor: tensor, given) is not given
    return [] if is_mapped or attribute_table(given) is None else [given]


def _exchanged(given: Any, copies: dict[int, Any]) -> Any:
    kind = type(given)
    if kind in (tuple, list):
        return kind([_exchanged(item, copies) for item in given])
    if kind is dict:
        return {name: _exchanged(item, copies) for name, item in given.items()}
    return copies.get(id(given), given)
