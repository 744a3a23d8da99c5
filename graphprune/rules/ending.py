"""Dimensions that keep every entry: space, positions, what is counted. Labels end there, and pass everywhere else."""

from __future__ import annotations

from collections.abc import Iterable

from graphprune.rules.alignment import refined_by, tied_along
from graphprune.rules.labels import LabelArray, LabeledTensor, varying
from graphprune.rules.registry import Call
from graphprune.utils.arrays import Dims


def ended(call: Call, x: LabeledTensor, dims: Iterable[int], text: str) -> LabeledTensor:
    """``x`` with every entry of ``dims`` kept, and without labels there.

    Of an array that varies over other dimensions too, what is not in ``dims`` can still go: the rows of a grid, or
    whole columns where it is the rows that stay.
    """
    rank = x.ndim
    gone = frozenset([d % rank for d in dims])
    if not [array for array in x.arrays if not array.dims.isdisjoint(gone)]:
        return LabeledTensor(x.shape, x.arrays, x.movable)
    kept, lost = [], []
    for array in x.arrays:
        rest = array.dims - gone
        if rest == array.dims:
            kept.append(array)
        elif rest and not array.cell:
            row, cell = call.labels.refine(array, rest)
            kept.append(row)
            lost.append(cell)
        elif rest and not refined_by(x.arrays, array, rest):
            kept.append(_columns(call, x, array, gone))
        else:
            lost.append(array)
    call.freeze(LabeledTensor(x.shape, tuple(lost)), text)
    return LabeledTensor(x.shape, tuple(kept), x.movable)


def _columns(call: Call, x: LabeledTensor, array: LabelArray, gone: Dims) -> LabelArray:
    """The cells of rows that lie in ``gone`` and all stay: they are the same in every row."""
    first = tied_along(call.labels, array.ids, gone)
    return LabelArray(first, cell=any(row.dims < varying(first.shape) for row in x.arrays))


def maps_over_space(call: Call, x: LabeledTensor, space: Iterable[int], text: str) -> LabeledTensor:
    """``x`` without labels in ``space``: what was one row for each place there, is one channel.

    A vector that is viewed as [channels, height, width] loses whole maps.
    """
    rank = x.ndim
    space = frozenset([d % rank for d in space])
    outside = {array.dims - space for array in x.arrays if array.dims & space}
    out = ended(call, x, space, text)
    if not outside:
        return out
    for array in out.arrays:
        if array.dims and array.dims in outside:
            call.labels.whole_maps(array.ids)
    return out
