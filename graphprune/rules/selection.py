"""Operations that choose entries by their values: the largest ones, those above zero, those under a mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphprune.rules.ending import ended
from graphprune.rules.indexing import column
from graphprune.rules.labels import LabeledTensor
from graphprune.rules.registry import Call, rule
from graphprune.rules.samples import bools, sample, t

aten = torch.ops.aten


_NUMBERS = "returns the number of a channel"


@rule(
    aten.kthvalue.default,
    samples=[sample(t(3, 4, 2), 2, 1), sample(t(3, 4), 2, -1)],
)
def kth_along(
    call: Call, x: LabeledTensor, count: int, dim: int = -1, *_: Any, **__: Any
) -> tuple[LabeledTensor, LabeledTensor]:
    """Values and their numbers along ``dim``, in which nothing can go."""
    out = _without(call, x, dim)
    return out, out


def _living_topk(alive: Tensor, x: Tensor, count: int, dim: int = -1, *rest: Any) -> Any:
    return x.masked_fill(~alive, float("-inf")).topk(count, dim, *rest)


@rule(
    aten.topk.default,
    samples=[sample(t(3, 4, 2), 2, 1), sample(t(3, 4), 2, -1).looking_at(0), sample(t(3, 4), 2, -1)],
    masked=_living_topk,
)
def chosen_along(
    call: Call, x: LabeledTensor, count: int, dim: int = -1, *_: Any, **__: Any
) -> tuple[LabeledTensor, LabeledTensor]:
    """Values and their numbers along ``dim``. Entries of it can go as long as ``count`` are left."""
    labels = column(x, dim)
    if labels is None:
        out = _without(call, x, dim)
        return out, out
    call.labels.chosen(labels, count)
    call.labels.mixes_channels(f"{call.op} chooses among channels")
    rest = tuple(array for array in x.arrays if dim % x.ndim not in array.dims)
    return LabeledTensor(call.out, rest), LabeledTensor(call.out, rest, indexed=labels)


def _without(call: Call, x: LabeledTensor, dim: int) -> LabeledTensor:
    """Labels of what is left of ``x`` when ``dim`` is chosen from; the result has it or not."""
    kept = ended(call, x, [dim], _NUMBERS).arrays
    gone = len(call.out) < x.ndim
    return LabeledTensor(call.out, tuple(array.at(array.ids.squeeze(dim)) if gone else array for array in kept))


@rule(
    aten.argmax.default,
    aten.argmin.default,
    samples=[sample(t(3, 4, 2), 1), sample(t(3, 4), -1, True), sample(t(3, 4))],
)
def extreme_number(call: Call, x: LabeledTensor, dim: int | None = None, keepdim: bool = False) -> LabeledTensor:
    if dim is not None:
        return _without(call, x, dim)
    call.freeze(x, _NUMBERS)
    return LabeledTensor(call.out)


@rule(aten.nonzero.default, samples=[sample(t(3, 4))])
def nonzero(call: Call, x: LabeledTensor) -> LabeledTensor:
    call.freeze(x, _NUMBERS)
    return LabeledTensor(call.out)


@rule(aten.masked_select.default, samples=[sample(t(3, 4), bools(3, 4))])
def masked_select(call: Call, x: LabeledTensor, mask: LabeledTensor) -> LabeledTensor:
    """How long the result is depends on the values."""
    call.freeze((x, mask), "entries are taken in the order of memory")
    return LabeledTensor(call.out)
