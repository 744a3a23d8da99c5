"""Buffers of truth values and integers that channels meet entry by entry: ``x.masked_fill(self.mask, 0)``.

Their entries are no numbers of channels: where a channel goes, so does the entry that it meets. Integers in a line
stay whole: they are taken for numbers of channels (:func:`graphprune.pruning.rewrite.slim_tensor` numbers them anew).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import fx

from graphprune.rules.labels import LabeledTensor
from graphprune.rules.registry import has_trait, is_elementwise
from graphprune.rules.scattering import INDEX_PUTS
from graphprune.rules.traits import Trait
from graphprune.utils.float_types import is_float_type
from graphprune.utils.operators import is_mutable

aten = torch.ops.aten

_KEEPING = (
    aten._to_copy.default,
    aten.sum.default,
    aten.sum.dim_IntList,
    aten.any.default,
    aten.any.dim,
    aten.slice.Tensor,
    aten.select.int,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.unbind.int,
)
"""What may come in between: to these, entries that are zero add nothing."""


def meets_channels(node: fx.Node, values: Mapping[fx.Node, Any]) -> bool:
    """Is a buffer used for nothing but to meet activations entry by entry, and may these have channels there?

    Args:
        node: the buffer, of truth values or integers.
        values: the labeled tensors that were made before it.
    """
    wide = len(node.meta["shape"]) - (node.meta["dtype"] is not torch.bool)
    met = list(_meetings(node, values)) if wide > 0 else []
    return any(met) and None not in met


def _meetings(node: fx.Node, values: Mapping[fx.Node, Any]) -> Iterator[bool | None]:
    """For every use of a tensor, whether it meets channels; None: something else is done with it."""
    if "dtype" not in node.meta:
        for part in node.users:
            yield from _meetings(part, values)
        return
    if _is_floating(node):
        yield True  # as other buffers of floating-point numbers
        return
    for user in node.users:
        if has_trait(user.target, Trait.MOVES, Trait.EXPANDS) or user.target in _KEEPING:
            yield from _meetings(user, values)
        elif (filled := _filled(user, node)) is not None:
            yield _touches(node, *filled, values)
        elif not _is_entrywise(user) or (user.args[0] is node and is_mutable(user.target)):
            yield None
        elif others := [n for n in user.all_input_nodes if n is not node and _is_floating(n) and n.meta["shape"]]:
            yield any(_touches(node, other, _overlaid(node, other), values) for other in others)
        else:
            yield from _meetings(user, values)


def _filled(user: fx.Node, mask: fx.Node) -> tuple[fx.Node, int] | None:
    """The tensor in which a call writes one number where a mask is true, and in which dimension the mask begins."""
    if user.target not in INDEX_PUTS or mask.meta["dtype"] is not torch.bool:
        return None
    filled, index, number = cast("tuple[fx.Node, Sequence[Any], fx.Node]", user.args[:3])
    alone = [place for place, one in enumerate(index) if one is not None]
    only = len(alone) == 1 and index[alone[0]] is mask and mask not in (filled, number)
    return (filled, alone[0]) if only and math.prod(number.meta["shape"]) == 1 else None


def _is_entrywise(user: fx.Node) -> bool:
    return user.op == "call_function" and is_elementwise(user.target, Trait.ENTRYWISE)


def _is_floating(node: fx.Node) -> bool:
    return is_float_type(node.meta["dtype"])


def _overlaid(node: fx.Node, other: fx.Node) -> int:
    """The dimension of a tensor in which another begins that meets it entry by entry; negative: before the first."""
    return len(other.meta["shape"]) - len(node.meta["shape"])


def _touches(node: fx.Node, other: fx.Node, place: int, values: Mapping[fx.Node, Any]) -> bool:
    """Has a tensor labels in a dimension in which the buffer, which begins at ``place`` of it, is wide?

    One that was not made yet may.
    """
    value = values.get(other)
    if not isinstance(value, LabeledTensor):
        return True
    wide = [place + d for d, size in enumerate(node.meta["shape"]) if size > 1]
    return bool(value.touching([d for d in wide if d >= 0]))
