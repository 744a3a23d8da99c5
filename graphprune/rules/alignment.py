"""What elementwise operations and sums do to label arrays: operands are aligned, dimensions are reduced."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile
from operator import attrgetter

import numpy as np

from graphprune.rules.labels import MEETS_NO_CHANNELS, LabelArray, LabeledTensor, Labels, varying
from graphprune.utils.arrays import Dims, Ids, Shape

_NO_DIMS: Dims = frozenset()


def refined_by(arrays: Sequence[LabelArray], array: LabelArray, dims: Dims) -> bool:
    """Is the cell array ``array`` a refinement of rows that vary over all of ``dims``?"""
    rows = [r.dims for r in arrays if r is not array and r.dims < array.dims]
    return array.cell and dims <= frozenset[int]().union(*rows)


def reduce_dims(labels: Labels, x: LabeledTensor, dims: Iterable[int]) -> list[LabelArray]:
    """The label arrays that are left when ``dims`` are summed over, still with size 1 there."""
    gone = frozenset(d % x.ndim for d in dims) if x.ndim else frozenset()
    kept = []
    for array in x.arrays:
        here, rest = array.dims & gone, array.dims - gone
        if not here:
            kept.append(array)
        elif rest and array.cell and not refined_by(x.arrays, array, rest):
            kept.append(array.at(tied_along(labels, array.ids, here)))
        elif rest and not array.cell:
            kept.extend(_left_of_grid(labels, array, gone))
    return kept


def tie(labels: Labels, x: LabeledTensor, dims: Iterable[int]) -> None:
    """Entries along ``dims`` meet, each at the place of its column: every row of a grid keeps the same columns."""
    gone = frozenset(d % x.ndim for d in dims) if x.ndim else frozenset()
    for array in x.arrays:
        here, rest = array.dims & gone, array.dims - gone
        if not here or not rest:
            continue
        if array.cell and not refined_by(x.arrays, array, rest):
            tied_along(labels, array.ids, here)
        elif not array.cell and frozenset(outer_first(array)[-len(here) :]) != here:
            _left_of_grid(labels, array, gone)


def outer_first(array: LabelArray) -> list[int]:
    """The dimensions that an array varies over, those first whose neighbors lie far apart in the parameter.

    A dimension of channels that was seen as a grid keeps whole rows, or equally many entries of every row. Which of
    its dimensions counts rows is not told by their order once they are transposed. Neighbors that are the same channel
    (rows that were repeated) say nothing of how far apart others lie.
    """

    def distance(d: int) -> float:
        steps = np.abs(np.diff(array.ids, axis=d))
        return float(steps.sum() / max(np.count_nonzero(steps), 1))

    return sorted(sorted(array.dims), key=distance, reverse=True)


def tied_along(labels: Labels, ids: Ids, dims: Dims) -> Ids:
    """Labels that are made the same along ``dims``, where they are left with size 1."""
    first = ids[tuple(slice(0, 1) if d in dims else slice(None) for d in range(ids.ndim))]
    labels.unify(ids, first)
    return first


def _left_of_grid(labels: Labels, array: LabelArray, gone: Dims) -> list[LabelArray]:
    """The labels of a grid that are left when ``gone`` are summed over.

    Where these are rows, what remains are the columns, which must be the same in every row. Where they are columns, the
    rows remain.
    """
    here, rest = array.dims & gone, array.dims - gone
    if not here or not rest:
        return [array] if rest else []
    order = outer_first(array)
    inner = list(takewhile(lambda d: (d in gone) == (order[-1] in gone), reversed(order)))
    row, cell = labels.refine(array, array.dims - frozenset(inner))
    rows = _left_of_grid(labels, row, gone)
    if order[-1] in gone:
        return rows
    columns = tied_along(labels, cell.ids, here)
    return [*rows, LabelArray(columns, cell=bool(rows))]


def align(labels: Labels, operands: Sequence[LabeledTensor], shape: Shape) -> list[LabelArray]:
    """The label arrays of an elementwise operation on broadcast ``operands``.

    Where two operands both have a real dimension, their elements there are the same channels. An operand that has a
    dimension without labeling it cannot lose entries of it, nor can the others then. The result carries the labels of
    activations rather than those of parameters, so that a parameter can follow the order of its input.
    """
    rank = len(shape)
    padded = [x if len(x.shape) == rank else _padded(x, rank) for x in operands]
    first, *others = sorted(padded, key=_is_movable) if len(padded) > 1 else padded
    for other in others:
        first = _align_pair(labels, first, other)
    return list(first.arrays)


_is_movable = attrgetter("movable")


def _padded(x: LabeledTensor, rank: int) -> LabeledTensor:
    missing = rank - x.ndim
    ones = (1,) * missing
    arrays = (array.at(array.ids.reshape(ones + array.ids.shape)) for array in x.arrays)
    return LabeledTensor(ones + x.shape, tuple(arrays), x.movable)


def _align_pair(labels: Labels, a: LabeledTensor, b: LabeledTensor) -> LabeledTensor:
    shape = tuple(map(max, a.shape, b.shape))
    if _same_layout(a, b):
        labels.unify(a.arrays[0].ids, b.arrays[0].ids)
        return LabeledTensor(shape, a.arrays)
    shared = varying(a.shape) & varying(b.shape)
    met_a, free_a = _meeting(labels, a, shared)
    met_b, free_b = _meeting(labels, b, shared)
    _fix_unmatched(labels, met_a, met_b, shared)
    met_a, met_b = _separate(labels, met_a, met_b)
    return LabeledTensor(shape, (*_match(labels, met_a, met_b, shared), *free_a, *free_b))


def _same_layout(a: LabeledTensor, b: LabeledTensor) -> bool:
    """The common case: one array each, over the same dimensions."""
    return len(a.arrays) == len(b.arrays) == 1 and a.arrays[0].ids.shape == b.arrays[0].ids.shape


def _meeting(labels: Labels, x: LabeledTensor, shared: Dims) -> tuple[list[LabelArray], list[LabelArray]]:
    """Label arrays that both operands must agree on, and those only this operand has.

    An array that varies over shared and unshared dimensions is refined; its outer dimensions become the rows.
    """
    met, free = [], []
    for array in x.arrays:
        inside, outside = array.dims & shared, array.dims - shared
        if not inside:
            free.append(array)
        elif not outside:
            met.append(array)
        elif array.cell:
            (free if refined_by(x.arrays, array, inside) else met).append(array)
        elif outer_first(array)[0] in inside:
            row, cell = labels.refine(array, inside)
            met.append(row)
            free.append(cell)
        else:
            row, cell = labels.refine(array, outside)
            free.append(row)
            met.append(cell)
    return met, free


def _fix_unmatched(labels: Labels, a: list[LabelArray], b: list[LabelArray], shared: Dims) -> None:
    """Fix arrays that vary only over dimensions which the other operand has, but does not label.

    So are rows of which the other operand has only the cells: its own were fixed before.
    """
    for mine, other in ((a, b), (b, a)):
        covered = shared & _NO_DIMS.union(*[array.dims for array in other])
        alone = []
        for array in other:  # a loop: hardly any operand has cells
            if array.cell and not any(rows.dims < array.dims for rows in other):
                alone.append(array)
        lost = [array for array in mine if array.dims.isdisjoint(covered) or (alone and _are_rows_of(array, alone))]
        if lost:
            labels.fix(lost, MEETS_NO_CHANNELS)
            mine[:] = [array for array in mine if array not in lost]


def _are_rows_of(rows: LabelArray, cells: Sequence[LabelArray]) -> bool:
    """Are these the rows of one of the cell arrays?"""
    return any(rows.dims < array.dims and outer_first(array)[0] in rows.dims for array in cells)


def _separate(labels: Labels, a: list[LabelArray], b: list[LabelArray]) -> tuple[list[LabelArray], list[LabelArray]]:
    """Refine joint arrays by the coarser ones they meet, so that rows meet rows and cells meet cells."""
    coarse = {array.dims for array in (*a, *b)}
    if max(map(len, coarse), default=0) < 2:
        return a, b

    def split(arrays: list[LabelArray]) -> list[LabelArray]:
        out: list[LabelArray] = []
        for array in arrays:
            rows = [d for d in coarse if d < array.dims and min(d) == min(array.dims)]
            if rows and not array.cell:
                out.extend(labels.refine(array, max(rows, key=len)))
            else:
                out.append(array)
        return out

    return split(a), split(b)


def _match(labels: Labels, a: list[LabelArray], b: list[LabelArray], shared: Dims) -> list[LabelArray]:
    """Declare the arrays over the same shared dimensions equal; what is left over is fixed."""
    kept, rest_a, rest_b = [], [], []
    for dims in sorted({array.dims & shared for array in (*a, *b)}, key=sorted):
        mine = [array for array in a if array.dims & shared == dims]
        other = [array for array in b if array.dims & shared == dims]
        if mine and other:
            kept.extend(_equate(labels, mine, other))
        else:
            rest_a.extend(mine)
            rest_b.extend(other)
    if len(rest_a) == len(rest_b) == 1:
        found = _equate(labels, rest_a, rest_b)
        kept.extend(_columns(rest_a[0], rest_b[0]) or _columns(rest_b[0], rest_a[0]) or found)
    else:
        labels.fix((*rest_a, *rest_b), "channels are arranged differently in the two operands")
    return kept


def _columns(cells: LabelArray, columns: LabelArray) -> list[LabelArray]:
    """The columns of a grid with which its cells were equated: they are the same in every row."""
    return [columns] if cells.cell and columns.dims < cells.dims else []


def _equate(labels: Labels, a: list[LabelArray], b: list[LabelArray]) -> list[LabelArray]:
    if len(a) == 1 or len(b) == 1:
        single, several = (a, b) if len(a) == 1 else (b, a)
        if len(several) > 1:
            define_all(labels, single[0].ids, several)
            return several
        labels.unify(a[0].ids, b[0].ids)
    else:
        _equate_several(labels, a, b)
    return a if max(array.ids.size for array in a) >= max(array.ids.size for array in b) else b


def _equate_several(labels: Labels, a: list[LabelArray], b: list[LabelArray]) -> None:
    """Arrays that change and repeat in the same places are equal; one that is alone, such as that of a batch, is fixed.

    So it is where batches and channels were merged to one dimension: ``weight[out, in] @ x[batch, 1, in]``.
    """
    found = _counterparts(a, b)
    if len(a) == len(b) and None in found:
        found = [*b]
    alone = [mine for mine, other in zip(a, found, strict=True) if other is None]
    labels.fix((*alone, *(o for o in b if o not in found)), "channels are composed differently in the two operands")
    for mine, other in zip(a, found, strict=True):
        if other is not None:
            labels.unify(mine.ids, other.ids)


def _counterparts(a: list[LabelArray], b: list[LabelArray]) -> list[LabelArray | None]:
    """For every array of one operand the one of the other that changes and repeats in the same places."""
    left, found = list(b), []
    for mine in a:
        alike = next((other for other in left if np.array_equal(_changes(mine), _changes(other))), None)
        found.append(alike)
        left = [other for other in left if other is not alike]
    return found


def _changes(array: LabelArray) -> Ids:
    """The entries of an array by the place at which their channel comes first."""
    _, first, numbers = np.unique(array.ids, return_index=True, return_inverse=True)
    return first[numbers].reshape(array.ids.shape)


def define_all(labels: Labels, whole: Ids, parts: list[LabelArray]) -> None:
    """``whole`` lives where all ``parts`` live; written as nested pairs, rows first."""
    *outer, last = sorted(parts, key=lambda array: (len(array.dims), array.cell))
    first = outer[0].ids
    for array in outer[1:]:
        both = np.broadcast_shapes(first.shape, array.ids.shape)
        pair = labels.fresh(both, range(len(both)), "row")
        labels.define(pair, first, array.ids)
        first = pair
    labels.define(whole, first, last.ids)
