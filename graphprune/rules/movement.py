"""Operations that only move elements: what they do to a tensor they do to its label arrays."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from operator import mul
from typing import Any

import numpy as np
import torch

from graphprune.rules.alignment import align, outer_first, tied_along
from graphprune.rules.ending import ended
from graphprune.rules.labels import LabelArray, LabeledTensor, Labels, varying
from graphprune.rules.registry import Call, Slim, rule
from graphprune.rules.samples import sample, t
from graphprune.rules.traits import Trait
from graphprune.utils.arrays import Dims, Ids, Shape
from graphprune.utils.operators import Args

aten = torch.ops.aten


_REARRANGES = (Trait.MOVES, Trait.KEEPS_INDEXES)


_TRANSPOSES = (*_REARRANGES, Trait.TRANSPOSES)


AxisGroup = tuple[tuple[int, ...], tuple[int, ...]]


@lru_cache(maxsize=4096)
def factor_groups(old: Shape, new: Shape) -> tuple[AxisGroup, ...]:
    """The finest split of a reshape into independent ones.

    >>> factor_groups((2, 12, 5), (2, 3, 4, 5))
    (((0,), (0,)), ((1,), (1, 2)), ((2,), (3,)))
    """
    groups: list[AxisGroup] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = [i] if i < len(old) else [], [j] if j < len(new) else []
        i, j = i + len(left), j + len(right)
        m = old[left[0]] if left else 1
        n = new[right[0]] if right else 1
        while m != n:
            if (m < n and i < len(old)) or j >= len(new):
                m, left, i = m * old[i], [*left, i], i + 1
            else:
                n, right, j = n * new[j], [*right, j], j + 1
        groups.append((tuple(left), tuple(right)))
    return tuple(groups)


@lru_cache(maxsize=4096)
def common_factors(old: Shape, new: Shape) -> Shape | None:
    """The shape whose dimensions are parts of those of both, where some dimensions are split and merged with others.

    >>> common_factors((6, 8, 4), (12, 16))
    (6, 2, 4, 4)
    """
    found: list[int] = []
    for before, after in factor_groups(old, new):
        ends = sorted({*accumulate((old[d] for d in before), mul), *accumulate((new[d] for d in after), mul)} - {1})
        if any(end % start for start, end in pairwise(ends)):
            return None
        found += [end // start for start, end in pairwise([1, *ends])]
    return tuple(found)


def reshape_array(array: LabelArray, old: Shape, new: Shape) -> LabelArray:
    """Reshape a label array, expanding only the dimensions that take part."""
    full, result = [1] * len(old), [1] * len(new)
    split: list[int] = []
    for before, after in factor_groups(old, new):
        if any(array.ids.shape[d] > 1 for d in before):
            for d in before:
                full[d] = old[d]
            for d in after:
                result[d] = new[d]
            if len(after) > 1:
                split.extend(after)
    ids = array.ids if array.ids.shape == tuple(full) else np.broadcast_to(array.ids, full)
    return array.at(_without_constant_dims(ids.reshape(result), split))


def _without_constant_dims(ids: Ids, dims: Iterable[int]) -> Ids:
    for d in dims:
        if ids.shape[d] > 1:
            first = ids[(slice(None),) * d + (slice(0, 1),)]
            if (ids == first).all():
                ids = first
    return ids


def reshape(labels: Labels, x: LabeledTensor, new: Shape) -> LabeledTensor:
    """``x`` in a new shape; a channel dimension that is split must stay rectangular."""
    if 0 in x.shape:
        return _reshape_of_nothing(labels, x, new)
    reshaped = (reshape_array(array, x.shape, new) for array in x.arrays)
    arrays = [array for array in reshaped if array.ids.size > 1 or array.ids.any()]  # what always lives needs no label
    for before, after in factor_groups(x.shape, new):
        if len([d for d in after if new[d] > 1]) > 1:
            touching = x.touching(before)
            if len([d for d in before if x.shape[d] > 1]) > 1 and len(touching) > 1:
                middle = common_factors(x.shape, new)
                if middle is not None:
                    return reshape(labels, reshape(labels, x, middle), new)
                labels.fix(touching, "reshaped across several dimensions with channels")
            for array in arrays:
                _note_rectangles(labels, array, after)
    return x.moved(new, arrays)


def _reshape_of_nothing(labels: Labels, x: LabeledTensor, new: Shape) -> LabeledTensor:
    """Dimensions of size 1 may come and go; otherwise the sizes do not say which entries go where."""
    if [size for size in x.shape if size != 1] != [size for size in new if size != 1]:
        labels.fix(x.arrays, "a tensor without entries is reshaped")
        return x.moved(new, ())
    return x.moved(new, (_with_other_ones(array, x.shape, new) for array in x.arrays))


def _with_other_ones(array: LabelArray, old: Shape, new: Shape) -> LabelArray:
    sizes = iter([array.ids.shape[d] for d, size in enumerate(old) if size != 1])
    return array.at(array.ids.reshape([next(sizes) if size != 1 else 1 for size in new]))


def _note_rectangles(labels: Labels, array: LabelArray, dims: Sequence[int]) -> None:
    joint = [d for d in dims if array.ids.shape[d] > 1]
    if len(joint) < 2:
        return
    ids = np.moveaxis(array.ids, joint, range(len(joint)))
    for level in range(1, len(joint)):
        rows = int(np.prod([array.ids.shape[d] for d in joint[:level]]))
        labels.rectangle(ids.reshape(rows, -1))


def _out_shape(slim: Slim, args: Args) -> Args:
    return args[0], list(slim.outs[0]), *args[2:]


@rule(
    aten.view.default,
    aten._unsafe_view.default,
    aten.reshape.default,
    samples=[
        sample(t(2, 6, 4, 3, labeled=[1]), [2, 6, 12]),
        sample(t(2, 6, 4, labeled=[1]), [2, 24]),
        sample(t(4, 6), [2, 2, 6]),
        sample(t(4, 6), [2, 12]),
        sample(t(2, 12, labeled=[1]), [4, 6]),
        sample(t(3, 4, 5), [12, 5]),
    ],
    resize=_out_shape,
    traits=[*_REARRANGES, Trait.RESHAPES],
)
def view(call: Call, x: LabeledTensor, size: Any, *_: Any) -> LabeledTensor:
    return reshape(call.labels, x, call.out)


def _row_major(slim: Slim, args: Args) -> Args:
    shape = slim.outs[0]
    return args[0], list(shape), [int(np.prod(shape[d + 1 :])) for d in range(len(shape))]


@rule(
    aten._reshape_alias.default,
    samples=[sample(t(4, 6, labeled=[1]), [2, 2, 6], [12, 6, 1])],
    resize=_row_major,
)
def reshape_alias(call: Call, x: LabeledTensor, size: Any, stride: Any) -> LabeledTensor:
    return reshape(call.labels, x, call.out)


@rule(aten.unsqueeze.default, samples=[sample(t(3, 4), 1)], traits=_REARRANGES)
@rule(aten.unsqueeze_.default, samples=[sample(t(3, 4), 1)])
def unsqueeze(call: Call, x: LabeledTensor, dim: int) -> LabeledTensor:
    return reshape(call.labels, x, call.out)


def _finest(array: LabelArray) -> int:
    """The dimension along which labels stand next to each other, of those that they depend on."""
    first = array.ids[(slice(0, 2),) * array.ids.ndim]
    return min(array.dims, key=lambda d: abs(int(np.diff(first, axis=d).flat[0])))


def _squeezed(call: Call, x: LabeledTensor, dims: Iterable[int]) -> LabeledTensor:
    """Two entries stay wherever a dimension of size 1 would be taken away.

    Of channels that are seen as heads, that is asked of those within each: heads have labels of their own if they go.
    """
    for d in dims:
        for array in (array for array in x.touching([d]) if _finest(array) == d % x.ndim):
            rows = np.unique(np.moveaxis(array.ids, d, -1).reshape(-1, x.shape[d]), axis=0)
            call.labels.at_least(rows, 2, f"{call.op} takes away a dimension that is left with one entry")
    return reshape(call.labels, x, call.out)


@rule(aten.squeeze.default, samples=[sample(t(4, 1, 6)), sample(t(1, 3))], traits=_REARRANGES)
@rule(aten.squeeze_.default, samples=[sample(t(4, 1, 6))])
def squeeze_all(call: Call, x: LabeledTensor) -> LabeledTensor:
    return _squeezed(call, x, range(x.ndim))


@rule(aten.squeeze.dim, samples=[sample(t(3, 1, 4), 1), sample(t(3, 4), 1)], traits=_REARRANGES)
@rule(aten.squeeze_.dim, samples=[sample(t(3, 1, 4), 1)])
def squeeze_dim(call: Call, x: LabeledTensor, dim: int) -> LabeledTensor:
    return _squeezed(call, x, [dim])


@rule(aten.squeeze.dims, samples=[sample(t(3, 1, 4), [1]), sample(t(3, 1, 4), [0, 1])], traits=_REARRANGES)
@rule(aten.squeeze_.dims, samples=[sample(t(3, 1, 4), [1])])
def squeeze_dims(call: Call, x: LabeledTensor, dims: Sequence[int]) -> LabeledTensor:
    return _squeezed(call, x, dims)


def _permuted(x: LabeledTensor, order: Sequence[int]) -> LabeledTensor:
    order = [d % x.ndim for d in order]
    shape = [x.shape[d] for d in order]
    return x.moved(shape, (array.at(array.ids.transpose(order)) for array in x.arrays))


@rule(aten.permute.default, samples=[sample(t(2, 3, 4), [2, 0, 1])], traits=_TRANSPOSES)
def permute(call: Call, x: LabeledTensor, order: Sequence[int]) -> LabeledTensor:
    return _permuted(x, order)


@rule(aten.t.default, samples=[sample(t(3, 4)), sample(t(3))], traits=_TRANSPOSES)
@rule(aten.t_.default, samples=[sample(t(3, 4))])
def transpose_2d(call: Call, x: LabeledTensor) -> LabeledTensor:
    return _permuted(x, range(x.ndim)[::-1])


@rule(aten.transpose.int, samples=[sample(t(2, 3, 4), 0, -1)], traits=_TRANSPOSES)
@rule(aten.transpose_.default, samples=[sample(t(2, 3, 4), 0, -1)])
def transpose(call: Call, x: LabeledTensor, a: int, b: int) -> LabeledTensor:
    order = list(range(x.ndim))
    order[a], order[b] = order[b], order[a]
    return _permuted(x, order)


@rule(
    aten.expand.default,
    samples=[sample(t(3, 1, 4), [3, 2, 4]), sample(t(4), [2, 4])],
    resize=_out_shape,
    traits=[Trait.EXPANDS, Trait.PICKS, Trait.MAKES_LABELS, Trait.KEEPS_INDEXES],
)
def expand(call: Call, x: LabeledTensor, size: Sequence[int], **_: Any) -> LabeledTensor:
    """Copies along a dimension of size 1 can be removed one by one: they get labels of their own."""
    missing = len(call.out) - x.ndim
    old = (1,) * missing + x.shape
    arrays = [array.at(array.ids.reshape((1,) * missing + array.ids.shape)) for array in x.arrays]
    for d, (m, n) in enumerate(zip(old, call.out, strict=True)):
        if m == 1 and n > 1:
            arrays.append(LabelArray(call.labels.fresh(call.out, [d], "repeat")))
    return LabeledTensor(call.out, tuple(arrays), numbers=x.numbers)


def _slice_bounds(slim: Slim, args: Args) -> Args:
    x, dim, start, _, *step = (*args, 0, None, None)[: max(4, len(args))]
    if len(args) == 1:
        return args
    size = x.shape[dim]
    first = (start or 0) % size if (start or 0) < 0 else (start or 0)
    first = first if step and first < step[0] != 1 else slim.position(dim, first)
    return x, dim, first, first + slim.outs[0][dim] * (step[0] if step else 1), *step


@rule(
    aten.slice.Tensor,
    samples=[
        sample(t(2, 6), 1, 0, 3),
        sample(t(6, 4), 0, 2, 5),
        sample(t(6, 4), 0, -2, 9223372036854775807),
        sample(t(6, 4), 0, 1, 6, 2),
        sample(t(8, 4), 0, 0, 8, 2),
        sample(t(2, 3, 9), -1, 2, 9223372036854775807, 3),
        sample(t(7, 4), 0, 1, 6, 2),
    ],
    resize=_slice_bounds,
    traits=[Trait.PICKS, Trait.KEEPS_INDEXES],
)
def slice_(
    call: Call, x: LabeledTensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> LabeledTensor:
    if step != 1:
        _keep_periods(call, x, dim, range(x.shape[dim])[start:end:step])
    return _take(call, x, dim, slice(start, end, step), call.out)


def _keep_periods(call: Call, x: LabeledTensor, dim: int, taken: range) -> None:
    """Entries go a whole period at a time, so that every step still meets the same place of a period."""
    size, step = x.shape[dim], taken.step
    if size % step or taken.start >= step or len(taken) != size // step:
        call.freeze(LabeledTensor(x.shape, tuple(x.touching([dim]))), "a step depends on the channels' numbers")
        return
    for array in x.touching([dim]):
        along = np.moveaxis(array.ids, dim, -1)
        periods = along.reshape(*along.shape[:-1], -1, step)
        call.labels.unify(periods, periods[..., :1])


def _take(call: Call, x: LabeledTensor, dim: int, index: slice, out: Shape) -> LabeledTensor:
    dim %= x.ndim
    where = (slice(None),) * dim + (index,)
    arrays = []
    for array in x.arrays:
        _note_pieces(call.labels, array, dim, index)
        piece = array.at(array.ids[where]) if array.ids.shape[dim] > 1 else array
        if not piece.ids.size:
            arrays.extend(_rows_of_nothing(call.labels, array, dim))
        elif piece.dims:
            arrays.append(piece)
        else:
            call.labels.fix([piece], f"{call.op}: one entry is picked by its number")
    return x.moved(out, arrays)


def _rows_of_nothing(labels: Labels, array: LabelArray, dim: int) -> list[LabelArray]:
    """What is left of a grid of which no entry along ``dim`` is taken: its rows, where these lie beside ``dim``."""
    rest = array.dims - {dim}
    if array.cell or not rest or outer_first(array)[0] not in rest:
        return []
    return [labels.refine(array, rest)[0]]


def _note_pieces(labels: Labels, array: LabelArray, dim: int, index: slice) -> None:
    """A piece of every row is taken: as many entries live in it, and before it, in every row."""
    if array.ids.shape[dim] == 1 or len(array.dims) < 2 or outer_first(array)[-1] != dim:
        return
    start, stop, _ = index.indices(array.ids.shape[dim])
    along = np.moveaxis(array.ids, dim, -1).reshape(-1, array.ids.shape[dim])
    for piece in (along[:, :start], along[:, start:stop]):
        if piece.shape[1]:
            labels.rectangle(piece)


def _select_index(slim: Slim, args: Args) -> Args:
    x, dim, index = args
    return x, dim, slim.position(dim, index % x.shape[dim])


@rule(
    aten.select.int,
    samples=[sample(t(3, 4), 0, 1), sample(t(3, 4), 1, -1)],
    resize=_select_index,
    traits=[Trait.PICKS, Trait.KEEPS_INDEXES],
)
def select(call: Call, x: LabeledTensor, dim: int, index: int) -> LabeledTensor:
    dim %= x.ndim
    return selected(call, x, dim, index)


def selected(call: Call, x: LabeledTensor, dim: int, index: int, why: str = "") -> LabeledTensor:
    """One entry of a dimension, which ends.

    Args:
        call: the call.
        x: what it is taken from.
        dim: the dimension; not negative.
        index: the number of the entry.
        why: why channels of that dimension stay; empty: one is picked by its number.
    """
    arrays = []
    for array in x.arrays:
        rest, place = array.dims - {dim}, index % x.shape[dim]
        _note_pieces(call.labels, array, dim, slice(place, place + 1))
        if rest and dim in array.dims and not array.cell and outer_first(array)[-1] == dim:
            row, cell = call.labels.refine(array, rest)
            picked = cell.at(np.take(cell.ids, [place], axis=dim))
            call.labels.fix([picked], f"{call.op}: {why or 'one entry of every row is picked by its number'}")
            arrays.append(row.at(row.ids.squeeze(dim)))
            continue
        ids: Ids = np.take(array.ids, [index if array.ids.shape[dim] > 1 else 0], axis=dim).squeeze(dim)
        if array.dims == {dim}:
            call.labels.fix([LabelArray(ids.reshape(-1))], f"{call.op}: {why or 'one entry is picked by its number'}")
        else:
            arrays.append(array.at(ids))
    return x.moved([n for d, n in enumerate(x.shape) if d != dim], arrays)


@rule(aten.unbind.int, samples=[sample(t(2, 4, labeled=[1]))], traits=[Trait.PICKS])
def unbind(call: Call, x: LabeledTensor, dim: int = 0) -> tuple[LabeledTensor, ...]:
    why = "each of the channels becomes a tensor of its own"
    return tuple(selected(call, x, dim % x.ndim, i, why) for i in range(x.shape[dim]))


def _split_sizes(slim: Slim, args: Args) -> Args:
    x, _, *rest = args
    dim = rest[0] if rest else 0
    return x, [shape[dim] for shape in slim.outs], dim


def _split_size(slim: Slim, args: Args) -> Args:
    x, _, *rest = args
    return x, max(shape[rest[0] if rest else 0] for shape in slim.outs), *rest


@rule(
    aten.split.Tensor,
    samples=[sample(t(6, 4, labeled=[1]), 2), sample(t(6, 8), 4, 1)],
    resize=_split_size,
    traits=[Trait.PICKS, Trait.EQUAL_PIECES],
)
def split(call: Call, x: LabeledTensor, size: int, dim: int = 0) -> tuple[LabeledTensor, ...]:
    return _cut(call, x, dim)


@rule(
    aten.split_with_sizes.default,
    samples=[sample(t(6, 9), [2, 3, 4], 1)],
    resize=_split_sizes,
    traits=[Trait.PICKS],
)
def split_with_sizes(call: Call, x: LabeledTensor, sizes: Sequence[int], dim: int = 0) -> tuple[LabeledTensor, ...]:
    return _cut(call, x, dim)


def _cut(call: Call, x: LabeledTensor, dim: int) -> tuple[LabeledTensor, ...]:
    ends = np.cumsum([shape[dim] for shape in call.outs]).tolist()
    starts = [0, *ends[:-1]]
    bounds = zip(starts, ends, call.outs, strict=True)
    return tuple(_take(call, x, dim, slice(a, b), out) for a, b, out in bounds)


@rule(
    aten.cat.default,
    samples=[sample([t(2, 3), t(2, 4)], 1), sample([t(3, 2), t(1, 2)]), sample([t(2, 3, 2), t(2, 3, 4)], -1)],
)
def cat(call: Call, tensors: Sequence[LabeledTensor], dim: int = 0) -> LabeledTensor:
    """Along ``dim`` the label arrays are laid side by side; in all other dimensions they must agree."""
    dim %= len(call.out)
    parts = _arranged_alike(call.labels, [x for x in tensors if len(x.shape) == len(call.out)], dim)
    rest = [_without(x, dim) for x in parts]
    shape = tuple(1 if d == dim else n for d, n in enumerate(call.out))
    arrays = align(call.labels, rest, shape)
    along = [[array for array in x.arrays if dim in array.dims] for x in parts]
    for layer in range(max(map(len, along))):
        arrays.append(_side_by_side(parts, along, layer, dim))
        _note_rectangles(call.labels, arrays[-1], range(len(call.out)))
    return LabeledTensor(call.out, tuple(arrays), all(x.movable for x in parts))


def _arranged_alike(labels: Labels, parts: Sequence[LabeledTensor], dim: int) -> list[LabeledTensor]:
    """Grids are told apart into rows and columns where another part has rows, or columns, of its own beside ``dim``."""
    known = frozenset[int]().union(*[array.dims for x in parts for array in x.arrays if dim not in array.dims])
    if not known:
        return list(parts)
    split = ([piece for array in x.arrays for piece in _beside(labels, array, dim, known)] for x in parts)
    return [LabeledTensor(x.shape, tuple(arrays), x.movable) for x, arrays in zip(parts, split, strict=True)]


def _beside(labels: Labels, array: LabelArray, dim: int, known: Dims) -> Iterable[LabelArray]:
    """The rows and the columns of a grid along ``dim`` and dimensions of which others have labels of their own."""
    shared = array.dims & known
    if array.cell or dim not in array.dims or not shared:
        return [array]
    return _rows_and_columns(labels, array, shared)


def _rows_and_columns(labels: Labels, array: LabelArray, rest: Dims) -> Iterable[LabelArray]:
    """A grid as rows and cells; where ``rest`` does not count rows, it has the same columns in each of them."""
    if outer_first(array)[0] in rest:
        return labels.refine(array, rest)
    along = array.dims - rest
    row, cell = labels.refine(array, along)
    return row, LabelArray(tied_along(labels, cell.ids, along), cell=True)


def _without(x: LabeledTensor, dim: int) -> LabeledTensor:
    shape = tuple(1 if d == dim else n for d, n in enumerate(x.shape))
    return LabeledTensor(shape, tuple(array for array in x.arrays if dim not in array.dims), x.movable)


def _side_by_side(parts: Sequence[LabeledTensor], along: list[list[LabelArray]], layer: int, dim: int) -> LabelArray:
    chosen = [arrays[layer] if layer < len(arrays) else None for arrays in along]
    rank = parts[0].ndim
    common = [1] * rank
    for array in chosen:
        if array is not None:
            common = [max(m, n) for m, n in zip(common, array.ids.shape, strict=True)]
    pieces = []
    for x, array in zip(parts, chosen, strict=True):
        shape = [x.shape[d] if d == dim else n for d, n in enumerate(common)]
        pieces.append(np.broadcast_to(array.ids if array else np.zeros([1] * rank, np.int64), shape))
    return LabelArray(np.concatenate(pieces, axis=dim), any(array is not None and array.cell for array in chosen))


@rule(aten.stack.default, samples=[sample([t(2, 3), t(2, 3)], 1)])
def stack(call: Call, tensors: Sequence[LabeledTensor], dim: int = 0) -> LabeledTensor:
    dim %= len(call.out)
    one = tuple(1 if d == dim else n for d, n in enumerate(call.out))
    return cat(call, [reshape(call.labels, x, one) for x in tensors], dim)


@rule(aten.flip.default, samples=[sample(t(3, 4), [1])], traits=[Trait.SHIFTS])
def flip(call: Call, x: LabeledTensor, dims: Sequence[int]) -> LabeledTensor:
    def flipped(array: LabelArray) -> LabelArray:
        return array.at(np.flip(array.ids, tuple(d % x.ndim for d in dims)))

    return x.moved(x.shape, map(flipped, x.arrays))


@rule(aten.roll.default, samples=[sample(t(2, 4, 3), [1], [1])], traits=[Trait.SHIFTS])
def roll(call: Call, x: LabeledTensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> LabeledTensor:
    return ended(call, x, dims or range(x.ndim), "the shift counts channels")


@rule(
    aten.tril.default,
    aten.triu.default,
    samples=[sample(t(3, 4, 4))],
)
def triangle(call: Call, x: LabeledTensor, *_: Any) -> LabeledTensor:
    return ended(call, x, (-1, -2), "the diagonal depends on the channels' numbers")


def _repeat_counts(slim: Slim, args: Args) -> Args:
    x, repeats = args
    missing = len(repeats) - len(x.shape)
    old, labeled = [1] * missing + list(x.shape), _labeled_dims(x, missing) if isinstance(x, LabeledTensor) else ()
    places = enumerate(zip(old, slim.outs[0], repeats, strict=True))
    return x, [r if d in labeled or not m else n // m for d, (m, n, r) in places]


def _labeled_dims(x: LabeledTensor, missing: int) -> set[int]:
    """The dimensions along which labels vary, where ``missing`` ones come before those of the tensor."""
    return {dim + missing for array in x.arrays for dim in varying(array.ids.shape)}


@rule(
    aten.repeat.default,
    samples=[sample(t(2, 3), [2, 1]), sample(t(1, 3), [4, 2, 1]), sample(t(2, 3, labeled=[1]), [4, 1])],
    resize=_repeat_counts,
    traits=[Trait.PICKS, Trait.MAKES_LABELS],
)
def repeat(call: Call, x: LabeledTensor, repeats: Sequence[int]) -> LabeledTensor:
    """Where entries have no channels, the copies of all of them are entries of their own, any number of which do."""
    missing = len(repeats) - x.ndim
    shape = (1,) * missing + x.shape
    arrays: list[LabelArray] = []
    for array in x.arrays:
        ids = array.ids.reshape((1,) * missing + array.ids.shape)
        times = [r if d in varying(ids.shape) else 1 for d, r in enumerate(repeats)]
        arrays.append(array.at(np.tile(ids, times)))
    labeled = _labeled_dims(x, missing)
    for d, r in enumerate(repeats):
        if r > 1 and shape[d] and d not in labeled:
            copies = call.labels.fresh(tuple(r if k == d else n for k, n in enumerate(call.out)), [d], "repeat")
            arrays.append(LabelArray(np.repeat(copies, shape[d], axis=d)))
    return LabeledTensor(call.out, tuple(arrays))


def _padding_left(slim: Slim, args: Args) -> Args:
    x, padding, *value = args
    return x, [slim.counts.get(added_entries(i), width) for i, width in enumerate(padding)], *value


def added_entries(place: int) -> str:
    """What the entries are called that one number of the padding adds."""
    return f"padding[{place}]"


@rule(
    aten.constant_pad_nd.default,
    samples=[
        sample(t(2, 4), [1, 2]),
        sample(t(2, 3, 4), [0, 0, 1, 2], 0.0),
        sample(t(2, 4), [-1, 2]),
        sample(t(2, 4), [1, 2], 0.5),
    ],
    resize=_padding_left,
    traits=[Trait.ADDS_ZEROS],
)
def constant_pad(call: Call, x: LabeledTensor, padding: Sequence[int], value: float = 0.0) -> LabeledTensor:
    """Zeros beside channels are entries of their own, any number of which do; other padding is always there."""
    widths = {x.ndim - 1 - i: (padding[2 * i], padding[2 * i + 1]) for i in range(len(padding) // 2)}
    if any(left < 0 or right < 0 for left, right in widths.values()):
        x = ended(call, x, [d for d, w in widths.items() if min(w) < 0], "cropped by a number")
    arrays: list[LabelArray] = []
    for array in _padded_rows(call, x, widths.keys()):
        follow = value == 0 and len(array.dims) == 1 and not any(array.dims == other.dims for other in arrays)
        ids = array.ids
        for d in array.dims & widths.keys():
            ids = _padded(call, ids, d, widths[d], follow)
        arrays.append(array.at(ids))
        if array.dims & widths.keys():
            _note_rectangles(call.labels, arrays[-1], range(x.ndim))
    return LabeledTensor(call.out, tuple(arrays))


def _padded(call: Call, ids: Ids, dim: int, widths: tuple[int, int], follow: bool) -> Ids:
    """Labels with what is added to both ends of a dimension: labels of their own, or that of what is always there."""
    left, right = max(widths[0], 0), max(widths[1], 0)
    cropped = ids[(slice(None),) * dim + (slice(max(-widths[0], 0), ids.shape[dim] + min(widths[1], 0)),)]
    shape = tuple(left + right if d == dim else n for d, n in enumerate(ids.shape))
    if not follow or not left + right:
        ends = np.zeros(shape, dtype=ids.dtype)
    else:
        ends = call.labels.fresh(shape, [dim], "filled")
        first = 2 * (ids.ndim - 1 - dim)
        for place, added in enumerate(np.split(ends.ravel(), [left])):
            call.count(added_entries(first + place), LabeledTensor(added.shape, (LabelArray(added),)))
    before, behind = np.split(ends, [left], axis=dim)
    return np.concatenate([before, cropped, behind], axis=dim)


def _padded_rows(call: Call, x: LabeledTensor, dims: Collection[int]) -> Iterator[LabelArray]:
    """The arrays of ``x``; of a grid only one side of which is padded, rows and columns are told apart.

    What is padded with rows has the same columns in each of them.
    """
    for array in x.arrays:
        padded, rest = array.dims.intersection(dims), array.dims.difference(dims)
        if array.cell or not padded or not rest:
            yield array
        else:
            yield from _rows_and_columns(call.labels, array, rest)


@rule(aten.as_strided_.default, aten.as_strided.default, samples=[sample(t(2, 3), [2, 3], [3, 1])])
def as_strided(call: Call, x: LabeledTensor, *_: Any) -> LabeledTensor:
    """A change of memory format alone does not come here: it is not traced."""
    call.freeze(x, "elements are addressed by their place in memory")
    return LabeledTensor(call.out)
