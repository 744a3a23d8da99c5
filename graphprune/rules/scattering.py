"""Reading and writing entries by their numbers: scatter, gather, index_add, index_put.

The dimension in which entries are counted keeps all of them; in every other dimension the operands' channels are the
same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from graphprune.rules.alignment import align
from graphprune.rules.ending import ended
from graphprune.rules.indexing import looked_up, permuted
from graphprune.rules.labels import LabelArray, LabeledTensor
from graphprune.rules.registry import Call, rule
from graphprune.rules.samples import bools, ints, sample, t, whole_rows
from graphprune.rules.traits import Trait
from graphprune.utils.arrays import Dims

aten = torch.ops.aten


def _flattened(x: LabeledTensor, dims: Dims) -> LabeledTensor:
    """``x``, which has no labels in ``dims``, as if these had one entry."""
    return LabeledTensor(tuple(1 if d in dims else n for d, n in enumerate(x.shape)), x.arrays, x.movable)


def _column_by_column(call: Call, dim: int, text: str, *operands: LabeledTensor) -> tuple[LabelArray, ...]:
    """The labels of an operation that counts entries of ``dim`` and takes every other place by itself.

    In a dimension in which the operands differ in size, the first entries alone take part: they are counted too. An
    index without entries may have any number of dimensions; then every place is kept.
    """
    if len({x.ndim for x in operands}) > 1:
        for x in operands:
            ended(call, x, range(x.ndim), text)
        return ()
    shapes = zip(*(x.shape for x in operands), strict=True)
    counted = frozenset(d for d, sizes in enumerate(shapes) if len({*sizes}) > 1) | {dim % operands[0].ndim}
    left = [_flattened(ended(call, x, counted, text), counted) for x in operands]
    return tuple(align(call.labels, left, left[0].shape))


INDEX_PUTS = (aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default)
"""What writes entries that numbers or masks name."""

_WRITTEN = "entries are written by number"


_READ = "entries are looked up by number"


_PICKED = "entries are picked by a mask"


_LAID = "entries are written by a mask, in the order of memory"


BY_NUMBER = (_WRITTEN, _READ, _PICKED, _LAID)
"""The reasons for fixing a dimension in which entries are counted."""


_INDEX = ints(4, 6, below=4, labeled=[1])


_HEADS = ints(4, 3, 2, below=4, labeled=[1, 2])


@rule(
    aten.scatter.src,
    aten.scatter_.src,
    aten.scatter_add.default,
    aten.scatter_add_.default,
    samples=[
        sample(t(4, 6), 0, _INDEX, t(4, 6)),
        sample(t(4, 3, 2, labeled=[1, 2]), 0, _HEADS, t(4, 3, 2, labeled=[1, 2])),
        sample(t(6, 4), -1, torch.tensor([[1, 0]], device="cpu").expand(6, 2), t(6, 2)),
        sample(t(4, 6), 0, torch.tensor([[1, 0, 3]], device="cpu"), t(2, 6)),
    ],
    traits=[Trait.SCATTERS, Trait.BY_COLUMN],
)
@rule(
    aten.scatter.reduce,
    aten.scatter_.reduce,
    samples=[sample(t(4, 6), 0, _INDEX, t(4, 6), reduce="add")],
    traits=[Trait.SCATTERS, Trait.BY_COLUMN],
)
@rule(
    aten.scatter_reduce.two,
    aten.scatter_reduce_.two,
    samples=[
        sample(t(4, 6), 0, _INDEX, t(4, 6), "amax", include_self=False),
        sample(t(4, 6), 0, _INDEX, t(4, 6), "mean"),
        sample(t(4, 6), 0, _INDEX, t(4, 6), "sum", include_self=True),
    ],
    traits=[Trait.SCATTERS, Trait.BY_COLUMN],
)
def scatter(
    call: Call, x: LabeledTensor, dim: int, index: LabeledTensor, source: LabeledTensor, *_: Any, **__: Any
) -> LabeledTensor:
    """``x[index[i, c], c] = source[i, c]``, or the same with a reduction."""
    return LabeledTensor(call.out, _column_by_column(call, dim, _WRITTEN, x, index, source))


@rule(
    aten.scatter.value,
    aten.scatter_.value,
    samples=[sample(t(4, 6), 0, _INDEX, 2.0)],
    traits=[Trait.SCATTERS, Trait.BY_COLUMN],
)
def scatter_value(
    call: Call, x: LabeledTensor, dim: int, index: LabeledTensor, value: float, **_: Any
) -> LabeledTensor:
    return LabeledTensor(call.out, _column_by_column(call, dim, _WRITTEN, x, index))


@rule(
    aten.gather.default,
    samples=[
        sample(t(4, 6), 0, _INDEX),
        sample(t(4, 3, 2), 0, _HEADS),
        sample(t(6, 4), 1, torch.tensor([[2, 1, 0]], device="cpu")),
        sample(t(5), 0, torch.zeros(2, 0, dtype=torch.int64, device="cpu")),
    ],
    traits=[Trait.LOOKS_UP, Trait.BY_COLUMN, Trait.KNOWS_INDEXES],
)
def gather(call: Call, x: LabeledTensor, dim: int, index: LabeledTensor, **_: Any) -> LabeledTensor:
    """``out[i, c] = x[index[i, c], c]``."""
    followed = _in_order(call, x, dim % max(x.ndim, 1), index)
    if followed is not None:
        return followed
    if index.indexed is not None:
        x = looked_up(call, x, dim, index.indexed)
    return LabeledTensor(call.out, _column_by_column(call, dim, _READ, x, index))


def _in_order(call: Call, x: LabeledTensor, dim: int, index: LabeledTensor) -> LabeledTensor | None:
    """The channels of ``dim`` in the order of a buffer that is repeated along other dimensions; None: it is not so."""
    lines = [array for array in index.arrays if array.dims == {dim}]
    if index.numbers is None or len(lines) != 1 or index.ndim != x.ndim:
        return None
    line = LabeledTensor(index.numbers.shape, (lines[0].at(lines[0].ids.reshape(-1)),), numbers=index.numbers)
    followed = permuted(call, x, dim, line)
    if followed is None:
        return None
    rest = [
        LabeledTensor(value.shape, tuple(array for array in value.arrays if dim not in array.dims), value.movable)
        for value in (x, index)
    ]
    arrays = _column_by_column(call, dim, _READ, *rest)
    return LabeledTensor(call.out, (*arrays, *followed.touching([dim])))


@rule(
    aten.index_add.default,
    aten.index_add_.default,
    aten.index_copy.default,
    aten.index_copy_.default,
    samples=[
        sample(t(4, 6), 0, torch.tensor([2, 0, 3], device="cpu"), t(3, 6)),
        sample(t(2, 4, 3), -2, torch.tensor([1, 3], device="cpu"), t(2, 2, 3)),
    ],
    traits=[Trait.SCATTERS],
)
@rule(
    aten.index_reduce.default,
    aten.index_reduce_.default,
    samples=[sample(t(4, 6), 0, torch.tensor([2, 0, 2], device="cpu"), t(3, 6), "amax", include_self=False)],
    traits=[Trait.SCATTERS],
)
def index_add(
    call: Call, x: LabeledTensor, dim: int, index: LabeledTensor, source: LabeledTensor, *_: Any, **__: Any
) -> LabeledTensor:
    """``x[index[i]] += source[i]``, also with other reductions than a sum."""
    if not x.ndim:
        return x
    call.freeze(index, _WRITTEN)
    return LabeledTensor(call.out, _column_by_column(call, dim, _WRITTEN, x, source))


@rule(
    aten.index_fill.int_Scalar,
    aten.index_fill_.int_Scalar,
    samples=[sample(t(4, 6), 0, torch.tensor([2, 0], device="cpu"), 1.5)],
    traits=[Trait.SCATTERS],
)
def index_fill(call: Call, x: LabeledTensor, dim: int, index: LabeledTensor, value: float) -> LabeledTensor:
    call.freeze(index, _WRITTEN)
    return LabeledTensor(x.shape, ended(call, x, [dim], _WRITTEN).arrays)


@rule(
    aten.index_select.default,
    samples=[sample(t(3, 4, 2), 1, torch.tensor([2, 0], device="cpu"))],
    traits=[Trait.PICKS, Trait.LOOKS_UP, Trait.KNOWS_INDEXES],
)
def index_select(call: Call, x: LabeledTensor, dim: int, index: LabeledTensor) -> LabeledTensor:
    followed = permuted(call, x, dim, index)
    if followed is not None:
        return followed
    call.freeze(index, _READ)
    if index.indexed is not None:
        x = looked_up(call, x, dim, index.indexed)
    return LabeledTensor(call.out, ended(call, x, [dim], _READ).arrays, indexed=x.indexed)


@rule(
    aten.slice_scatter.default,
    samples=[sample(t(4, 6), t(2, 6), 0, 1, 3), sample(t(2, 5, 3), t(2, 2, 3), -2, 0, None, 3)],
)
def slice_scatter(call: Call, x: LabeledTensor, source: LabeledTensor, dim: int = 0, *_: Any) -> LabeledTensor:
    """``x`` with ``source`` in the place of a slice."""
    return LabeledTensor(call.out, _column_by_column(call, dim, _WRITTEN, x, source))


@rule(aten.select_scatter.default, samples=[sample(t(4, 6), t(6), 0, 2), sample(t(2, 4, 3), t(2, 3), -2, -1)])
def select_scatter(call: Call, x: LabeledTensor, source: LabeledTensor, dim: int, index: int) -> LabeledTensor:
    """``x`` with ``source`` in the place of one entry of a dimension."""
    place = dim % x.ndim
    shape = (*source.shape[:place], 1, *source.shape[place:])
    arrays = tuple(array.at(np.expand_dims(array.ids, place)) for array in source.arrays)
    return slice_scatter(call, x, LabeledTensor(shape, arrays, source.movable), place)


def counted_dims(x: LabeledTensor, index: Sequence[LabeledTensor | None]) -> tuple[list[int], int | None]:
    """The dimensions of ``x`` that ``index`` counts in, and how many take their place (None: it cannot be told).

    A mask takes the place of as many dimensions as it has; integers of the same shape cannot be told from it.
    """
    dims: list[int] = []
    place, rank = 0, 0
    doubtful = False
    for i in index:
        mask = i is not None and i.ndim > 1 and i.shape == x.shape[place : place + i.ndim]
        width = i.ndim if i is not None and mask else 1
        if i is not None:
            dims.extend(range(place, place + width))
            rank = max(rank, i.ndim)
            doubtful |= mask
        place += width
    return dims, None if doubtful else rank


@rule(
    aten.index.Tensor,
    samples=[
        sample(t(5, 3, labeled=[1]), [torch.tensor([4, 0, 2], device="cpu")]),
        sample(t(2, 5, 3), [None, torch.tensor([[4, 0], [2, 1]], device="cpu")]),
        sample(t(3, 4, 2), [torch.tensor([2, 0], device="cpu"), None, torch.tensor([1, 0], device="cpu")]),
        sample(t(2, 3, 2), [torch.tensor([[True, False, True], [False, True, True]], device="cpu")]),
        sample(
            t(2, 3, 3, 4),
            [
                torch.tensor([[True, False, False], [False, True, False]], device="cpu"),
                torch.tensor([0, 2], device="cpu"),
            ],
        ),
        sample(t(3, 5, 4), [whole_rows(3, 5, 4)]),
        sample(t(7, 4), [ints(2, 3, below=7, labeled=[1])]),
        sample(t(2, 7, 4), [None, ints(2, 3, below=7, labeled=[1])]),
    ],
    traits=[Trait.LOOKS_UP, Trait.KNOWS_INDEXES, Trait.TAKES_ROWS],
)
def index(call: Call, x: LabeledTensor, indices: Sequence[LabeledTensor | None]) -> LabeledTensor:
    """Dimensions that are indexed are fixed; the others keep their labels in their new place."""
    first = indices[0]
    if first is not None and takes_whole_rows(x, first):
        return _rows_in_a_line(call, x, first)
    given = [(dim, i) for dim, i in enumerate(indices) if i is not None]
    followed = permuted(call, x, *given[0]) if len(given) == 1 else None
    if followed is not None:
        return followed
    counted, _ = counted_dims(x, indices)
    text = _PICKED if any(i.boolean for _, i in given) else _READ
    for dim, i in zip(counted, (i for i in indices if i is not None), strict=False):
        if i.indexed is not None:
            x = looked_up(call, x, dim, i.indexed)
    rest = [d for d in range(x.ndim) if d not in counted]
    new = len(call.out) - len(rest)
    made = _made_numbers(given, new)
    if not made:
        call.freeze([i for _, i in given], text)
    at = counted[0] if _adjacent(counted) else 0
    place = [k if k < at else k + new for k in range(len(rest))]
    arrays = [_moved(array, rest, place, len(call.out)) for array in ended(call, x, counted, text).arrays]
    after = (1,) * (len(call.out) - at - new)
    arrays += [array.at(array.ids.reshape((1,) * at + array.ids.shape + after)) for array in made]
    return LabeledTensor(call.out, tuple(arrays), indexed=x.indexed)


def _made_numbers(given: Sequence[tuple[int, LabeledTensor]], new: int) -> Sequence[LabelArray]:
    """The labels of numbers that channels made (``table[(y > 0).long()]``), which stand in the result as they are.

    Args:
        given: the dimensions that are indexed, and by what.
        new: how many dimensions take their place.
    """
    (_, only), *others = given
    unknown = others or only.boolean or only.movable or only.indexed is not None or only.ndim != new
    return () if unknown else only.arrays


def _adjacent(dims: Sequence[int]) -> bool:
    return list(dims) == list(range(dims[0], dims[0] + len(dims)))


def takes_whole_rows(x: LabeledTensor, mask: LabeledTensor) -> bool:
    """Does a mask of the shape of ``x`` choose all channels (the last dimension) of a place, or none of them?"""
    return mask.shape == x.shape and x.ndim > 1 and x.ndim - 1 in mask.repeats


def _rows_in_a_line(call: Call, x: LabeledTensor, mask: LabeledTensor) -> LabeledTensor:
    """The chosen rows one behind the other. [..., c] -> [rows * c]."""
    arrays = _last_dimension(call, x, mask)
    if not arrays or not call.out[0]:
        return LabeledTensor(call.out)
    call.labels.fix(arrays[1:], f"{call.op}: several choices in one dimension")
    line = arrays[0].ids.reshape(-1)
    return LabeledTensor(call.out, (arrays[0].at(np.tile(line, call.out[0] // len(line))),))


def _last_dimension(call: Call, *operands: LabeledTensor) -> tuple[LabelArray, ...]:
    """The labels of the last dimension of operands that have the same channels there; places are counted."""
    rank = max(x.ndim for x in operands)
    lines = []
    for x in operands:
        arrays = ended(call, x, range(x.ndim - 1), "places are counted").arrays
        shape = (*[1] * (rank - 1), x.shape[-1])
        lines.append(
            LabeledTensor(
                shape, tuple(array.at(array.ids.reshape(*[1] * (rank - 1), -1)) for array in arrays), x.movable
            )
        )
    return tuple(align(call.labels, lines, lines[0].shape))


@rule(
    aten.masked_scatter.default,
    aten.masked_scatter_.default,
    samples=[
        sample(t(3, 5, 4), whole_rows(3, 5, 4), t(20, 4)),
        sample(t(5, 4), whole_rows(5, 4), t(2, 5, 4)),
        sample(t(3, 5, 4), bools(3, 5, 1), t(20, 4)),
        sample(t(5, 4), torch.tensor([True, False, True, True], device="cpu").expand(5, 4), t(20)),
    ],
    traits=[Trait.TAKES_ROWS],
)
def masked_scatter(call: Call, x: LabeledTensor, mask: LabeledTensor, source: LabeledTensor) -> LabeledTensor:
    """The source is read entry after entry: its rows where the mask takes whole rows."""
    whole = takes_whole_rows(x, mask) or (x.ndim == mask.ndim and mask.shape[-1] == 1 < x.shape[-1])
    if whole and source.ndim > 1 and source.shape[-1] == x.shape[-1]:
        arrays = _last_dimension(call, x, mask, source)
        return LabeledTensor(call.out, tuple(array.at(array.ids.reshape(*[1] * (x.ndim - 1), -1)) for array in arrays))
    call.freeze((x, mask, source), "entries are taken in the order of memory")
    return LabeledTensor(call.out)


@rule(
    *INDEX_PUTS,
    samples=[
        sample(t(5, 3), [torch.tensor([4, 0, 4], device="cpu")], t(3, 3), True),
        sample(t(5, 3), [torch.tensor([4, 0], device="cpu")], t(3)),
        sample(t(2, 5, 3), [None, torch.tensor([4, 0], device="cpu")], t(2, 2, 3, labeled=[0, 2])),
        sample(
            t(3, 2, 4),
            [torch.tensor([2, 0], device="cpu"), None, torch.tensor([1, 0], device="cpu")],
            t(2, 2, labeled=[1]),
        ),
        sample(
            t(2, 3, 4), [torch.tensor([[True, False, True], [False, True, True]], device="cpu")], t(4, 4, labeled=[1])
        ),
        sample(t(4, 3, 2), [None, torch.tensor([True, False, True], device="cpu")], t(2)),
        sample(t(2, 4, 3), [bools(2, 4, 3)], torch.tensor(0.5, dtype=torch.float64, device="cpu")),
        sample(t(2, 4, 3), [bools(2, 4)], torch.tensor([0.5], dtype=torch.float64, device="cpu")),
        sample(t(2, 4, 3), [None, bools(4)], torch.tensor(0.5, dtype=torch.float64, device="cpu")),
    ],
    traits=[Trait.SCATTERS],
)
def index_put(
    call: Call,
    x: LabeledTensor,
    index: Sequence[LabeledTensor | None],
    values: LabeledTensor,
    *_: Any,
) -> LabeledTensor:
    """Values are laid over the dimensions that are left, which may have moved behind those of the numbers."""
    if (mask := _fills_a_mask(x, index, values)) is not None:
        return LabeledTensor(x.shape, tuple(align(call.labels, (x, mask), x.shape)))
    counted, rank = counted_dims(x, index)
    rest = [d for d in range(x.ndim) if d not in counted]
    text = _LAID if any(i is not None and i.boolean for i in index) else _WRITTEN
    call.freeze([i for i in index if i is not None], text)
    before = [d for d in rest if _adjacent(counted) and d < counted[0]]
    if rank is None:
        counted, rest, before = [*counted, *before], [d for d in rest if d not in before], []
        rank = max(values.ndim - len(rest), 0)
    x = ended(call, x, counted, text)
    wide = (*(x.shape[d] for d in before), *([1] * rank), *(x.shape[d] for d in rest[len(before) :]))
    place = [*range(len(before)), *range(len(before) + rank, len(wide))]
    first = len(wide) - values.ndim
    numbered = [d - first for d in range(len(before), len(before) + rank) if d >= first]
    values = _flattened(ended(call, values, numbered, text), frozenset(numbered)) if values.ndim else values
    spread = LabeledTensor(wide, tuple(_moved(array, rest, place, len(wide)) for array in x.arrays), x.movable)
    arrays = align(call.labels, (spread, values), wide)
    return LabeledTensor(x.shape, tuple(_moved(array, place, rest, x.ndim) for array in arrays))


def _fills_a_mask(
    x: LabeledTensor, index: Sequence[LabeledTensor | None], values: LabeledTensor
) -> LabeledTensor | None:
    """The mask of ``x[:, mask] = number``, which counts nothing, laid over ``x``; None for other writes."""
    place, mask = next((place, i) for place, i in enumerate(index) if i is not None)
    if not mask.boolean or any(i is not None for i in index[place + 1 :]) or np.prod(values.shape) != 1:
        return None
    return _laid_mask(x, place, mask)


def lay_by_mask(
    call: Call, x: LabeledTensor, index: Sequence[LabeledTensor | None], *others: LabeledTensor
) -> LabeledTensor:
    """``x`` with functions of others' entries where the only index, a mask, is true; all have the shape of ``x``."""
    ((place, mask),) = [(place, i) for place, i in enumerate(index) if i is not None]
    return LabeledTensor(x.shape, tuple(align(call.labels, (x, *others, _laid_mask(x, place, mask)), x.shape)))


def _laid_mask(x: LabeledTensor, place: int, mask: LabeledTensor) -> LabeledTensor:
    """A mask that begins at a dimension of ``x``, as wide as that."""
    before, after = (1,) * place, (1,) * (x.ndim - place - mask.ndim)
    arrays = (array.at(array.ids.reshape(before + array.ids.shape + after)) for array in mask.arrays)
    return LabeledTensor(before + mask.shape + after, tuple(arrays), boolean=True)


def _moved(array: LabelArray, old: Sequence[int], new: Sequence[int], rank: int) -> LabelArray:
    """``array`` with dimension ``old[i]`` at ``new[i]`` (both ascending) of ``rank`` dimensions."""
    shape = [1] * rank
    for a, b in zip(old, new, strict=True):
        shape[b] = array.ids.shape[a]
    return array.at(array.ids.reshape(shape))
