"""Integers that count in a pruned dimension: which expert a token goes to.

A choice by value (``topk``) gives numbers of a dimension with labels. As long as these are only handed on, looked up
with, and counted, entries of that dimension can be removed: the slim model numbers the others anew, in the same order.
Whatever else is done with them fixes the dimension they count in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from graphprune.rules.labels import LabelArray, LabeledTensor, operands_of
from graphprune.rules.registry import Call, Slim, has_trait, rule
from graphprune.rules.samples import sample
from graphprune.rules.traits import Trait
from graphprune.utils.arrays import Ids
from graphprune.utils.operators import Args

aten = torch.ops.aten


def index_tensors(*values: Any) -> list[LabeledTensor]:
    """All integers among nested arguments that count in a pruned dimension."""
    return [value for value in operands_of(*values) if value.indexed is not None]


def propagate_indexes(call: Call, op: Any, args: Sequence[Any], result: Any) -> Any:
    """``result`` as what it counts, or what the arguments count in fixed where they are used in another way."""
    known = index_tensors(*args)
    if not known or has_trait(op, Trait.KNOWS_INDEXES):
        return result
    if has_trait(op, Trait.KEEPS_INDEXES) and isinstance(result, LabeledTensor):
        return replace(result, indexed=known[0].indexed)
    for value in known:
        call.labels.fix([LabelArray(value.indexed)], f"{call.op}: numbers of channels are used as numbers")  # type: ignore[arg-type]
    return result


def column(x: LabeledTensor, dim: int) -> Ids | None:
    """The one label of every entry of ``dim``; None: it has none, or several."""
    arrays = x.touching([dim])
    if len(arrays) != 1 or arrays[0].dims != {dim % x.ndim}:
        return None
    return arrays[0].ids.ravel()


def looked_up(call: Call, x: LabeledTensor, dim: int, indexed: Ids) -> LabeledTensor:
    """``x`` without its labels along ``dim``, whose entries are those that ``indexed`` labels."""
    found = column(x, dim)
    if found is None or len(found) != len(indexed):
        call.labels.fix([LabelArray(indexed)], f"{call.op}: looked up in a table that cannot be pruned")
        return x
    call.labels.unify(found, indexed)
    return LabeledTensor(x.shape, tuple(array for array in x.arrays if dim % x.ndim not in array.dims), x.movable)


def permuted(call: Call, x: LabeledTensor, dim: int, index: LabeledTensor) -> LabeledTensor | None:
    """``x`` with the channels of ``dim`` in the order of a buffer that names every one of them.

    An entry of the buffer goes with the channel that it names, and the others are numbered anew. None: it has no
    labels, or the channels are those of a grid.
    """
    found = column(x, dim)
    if index.numbers is None or found is None:
        return None
    (array,) = index.arrays
    call.labels.in_order(found)
    call.labels.unify(found[index.numbers], array.ids)
    along = array.ids.reshape([-1 if d == dim % x.ndim else 1 for d in range(x.ndim)])
    rest = (array for array in x.arrays if dim % x.ndim not in array.dims)
    return LabeledTensor(call.out, (*rest, LabelArray(along)))


def _bins(slim: Slim, args: Args) -> Args:
    x, bins, low, high = (*args, 100, 0, 0)[:4]
    count = slim.outs[0][0]
    return x, count, low, high - (bins - count)


@rule(
    aten.histc.default,
    samples=[sample(torch.tensor([0.0, 2.0, 1.0, 2.0], device="cpu"), 4, 0, 3)],
    resize=_bins,
    traits=[Trait.KNOWS_INDEXES],
)
def histogram(call: Call, x: LabeledTensor, bins: int = 100, low: float = 0, high: float = 0) -> LabeledTensor:
    """How often each number occurs: one bin for every entry that the numbers count."""
    call.freeze(x, "entries are counted")
    if x.indexed is None:
        return LabeledTensor(call.out)
    if (len(x.indexed), low, high) != (bins, 0, bins - 1):
        call.labels.fix([LabelArray(x.indexed)], f"{call.op}: bins that are not the channels")
        return LabeledTensor(call.out)
    return LabeledTensor(call.out, (LabelArray(x.indexed),))
