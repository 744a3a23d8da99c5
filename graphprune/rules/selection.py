"""Operations that choose entries by their values: the largest ones, those above zero, those under a mask."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphprune.rules.ending import ended
from graphprune.rules.indexing import column
from graphprune.rules.labels import LabeledTensor
from graphprune.rules.reduction import NUMBERS, numbers_used, reduced
from graphprune.rules.registry import Call, rule
from graphprune.rules.samples import bools, sample, t

aten = torch.ops.aten


def _living_kth(alive: Tensor, x: Tensor, count: int, dim: int = -1, *rest: Any) -> Any:
    return x.masked_fill(~alive, float("inf")).kthvalue(count, dim, *rest)


@rule(
    aten.kthvalue.default,
    samples=[
        sample(t(3, 4, 2), 2, 1),
        sample(t(3, 4), 2, -1),
        sample(t(3, 4), 2, -1).looking_at(0),
        sample(t(3, 4, 2), 2, 1, True).looking_at(0),
    ],
    masked=_living_kth,
)
def kth_along(
    call: Call, x: LabeledTensor, count: int, dim: int = -1, keepdim: bool = False
) -> tuple[LabeledTensor, LabeledTensor]:
    """A value and its number along ``dim``. Where nobody asks for the number, entries can go until so many are left."""
    labels = None if numbers_used(call) else column(x, dim)
    if labels is None:
        out = _without(call, x, dim)
        return out, out
    call.labels.chosen(labels, count)
    call.labels.mixes_channels(f"{call.op} chooses among channels", x.touching([dim]))
    out = reduced(call, x, [dim], keepdim)
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
    text = NUMBERS if numbers_used(call) else "chooses among channels of a grid"
    kept = ended(call, x, [dim], text).arrays
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
    call.freeze(x, NUMBERS)
    return LabeledTensor(call.out)


@rule(aten.nonzero.default, samples=[sample(t(3, 4))])
def nonzero(call: Call, x: LabeledTensor) -> LabeledTensor:
    call.freeze(x, NUMBERS)
    return LabeledTensor(call.out)


@rule(aten.masked_select.default, samples=[sample(t(3, 4), bools(3, 4))])
def masked_select(call: Call, x: LabeledTensor, mask: LabeledTensor) -> LabeledTensor:
    """How long the result is depends on the values."""
    call.freeze((x, mask), "entries are taken in the order of memory")
    return LabeledTensor(call.out)
