"""Convolutions of any number of dimensions, grouped, depthwise, transposed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from graphprune.rules.alignment import align, outer_first, tied_along
from graphprune.rules.contraction import contract, placed
from graphprune.rules.ending import maps_over_space
from graphprune.rules.im2col import Opened
from graphprune.rules.labels import NOT_A_CHANNEL, LabelArray, LabeledTensor, Labels
from graphprune.rules.macs import convolution_macs
from graphprune.rules.matmul_view import AxisTable, MatmulView, Owners, SlidingKernel
from graphprune.rules.movement import reshape
from graphprune.rules.registry import Call, Slim, rule
from graphprune.rules.samples import sample, t
from graphprune.utils.arrays import Dims
from graphprune.utils.operators import Args

aten = torch.ops.aten


def only(x: LabeledTensor, dims: Iterable[int]) -> LabeledTensor:
    """The labels of ``x`` that vary within ``dims`` alone, with the other dimensions taken away."""
    kept = tuple(dims)
    gone, within = _others(kept, x.ndim)
    arrays = tuple([array.at(array.ids.squeeze(gone)) for array in x.arrays if array.dims <= within])
    return LabeledTensor(tuple([x.shape[d] for d in kept]), arrays, x.movable)


@lru_cache(maxsize=64)
def _others(dims: tuple[int, ...], rank: int) -> tuple[tuple[int, ...], Dims]:
    """The dimensions of a tensor of ``rank`` that are not among ``dims``, and these as a set."""
    return tuple(d for d in range(rank) if d not in dims), frozenset(dims)


def channels(call: Call, x: LabeledTensor, dim: int, text: str) -> LabeledTensor:
    """The channels of ``x`` as a vector; labels in any other dimension but the first are fixed."""
    x = maps_over_space(call, x, [d for d in range(x.ndim) if d not in (0, dim)], text)
    mixed = tuple([array for array in x.arrays if array.dims == {0, dim}])
    if mixed:
        call.freeze(LabeledTensor(x.shape, mixed), "channels lie in the batch dimension too")
    return only(x, [dim])


def beside(x: LabeledTensor, dim: int, rank: int) -> tuple[LabelArray, ...]:
    """The labels of a vector laid along ``dim`` of a tensor of ``rank``."""
    shape = _along(dim, rank)
    return tuple([array.at(array.ids.reshape(shape)) for array in x.arrays])


@lru_cache(maxsize=64)
def _along(dim: int, rank: int) -> tuple[int, ...]:
    """The shape of a vector laid along ``dim`` of a tensor of ``rank``."""
    return tuple(-1 if d == dim else 1 for d in range(rank))


def _groups(slim: Slim, args: Args) -> Args:
    return *args[:8], slim.counts.get("groups", 1)


SPACE = "space that a kernel slides over"
_ROWS_AND_CHANNELS = frozenset((0, 1))


def _whole(x: Sequence[int], weight: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> list[int]:
    """The dimensions in which a kernel of one shape is as wide as what it meets, without gaps and padding."""
    given = [list(v) * (len(x) - 2 if len(v) == 1 else 1) for v in (padding, dilation)]
    places = enumerate(zip(*given, x[2:], weight[2:], strict=True), 2)
    return [dim for dim, (pad, spread, size, width) in places if pad == 0 and spread == 1 and size == width]


def _sums(*args: Any) -> list[tuple[int, list[int]]]:
    """Over channels, and over space that the kernel is as wide as."""
    if args[6]:
        return [(0, [1]), (1, [0])]
    dims = [1, *_whole(args[0].meta["shape"], args[1].meta["shape"], *args[4:6])]
    return [(0, dims), (1, dims)]


def masked_convolution(alive: Tensor, x: Tensor, *rest: Any) -> Tensor:
    """The kernel passes over the dead entries of the dimensions that it slides along."""
    slid = [d for d in range(2, x.ndim) if d not in _whole(x.shape, rest[0].shape, *rest[3:5])]
    living = {d: alive.transpose(0, d).flatten(1).any(dim=1).nonzero()[:, 0] for d in slid}
    for d, index in living.items():
        x = x.index_select(d, index)
    out = aten.convolution.default(x, *rest)
    for d, index in living.items():
        wide = out.new_zeros([*out.shape[:d], alive.shape[d], *out.shape[d + 1 :]])
        out = out if len(index) == alive.shape[d] else wide.index_copy_(d, index, out)
    found: Tensor = out
    return found


def _kernel_owners(weight: LabeledTensor, args: Sequence[Any], table: AxisTable) -> Owners | None:
    """A kernel [outputs, channels of a group, ...], or [channels, outputs of a group, ...] if transposed."""
    transposed, groups = args[6], int(args[8])
    along = {d: [array for array in weight.arrays if d in array.dims] for d in (0, 1)}
    wanted = along[0] if transposed else along[1] + (along[0] if groups > 1 else [])
    if not wanted or not all(len(array.dims) == 1 and table.named(array) for array in wanted):
        return None
    if transposed:
        count = weight.shape[0] // groups
        return Owners(groups, count, tuple(array.ids.reshape(groups, count) for array in along[0]))
    contracted = tuple(array.ids.reshape(1, -1) for array in along[1])
    rows = tuple(array.ids.reshape(groups, -1) for array in along[0]) if groups > 1 else ()
    return Owners(groups, weight.shape[1], contracted, rows)


def _open_channels(x: Tensor, weight: Tensor, args: Sequence[Any], blocks: int) -> Opened:
    """Channels over batch and space; all positions of a kernel see the same channel."""
    opened = x.reshape(x.shape[0], blocks, x.shape[1] // blocks, -1)
    if args[6]:
        return opened, weight.reshape(blocks, opened.shape[2], -1)
    by_block = weight.reshape(blocks, weight.shape[0] // blocks, opened.shape[2], -1)
    return opened, by_block.transpose(1, 2).flatten(2)


def _open_result(y: Tensor, blocks: int) -> Tensor:
    """The result of a convolution, [n, outputs, ...]."""
    return y.reshape(y.shape[0], blocks, y.shape[1] // blocks, -1)


@rule(
    aten.convolution.default,
    samples=[
        sample(t(2, 6, 5, 5, labeled=[1]), t(4, 6, 3, 3), t(4), [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
        sample(t(2, 6, 5, labeled=[1]), t(6, 1, 3), None, [1], [1], [1], False, [0], 6),
        sample(t(2, 4, 5, labeled=[1]), t(8, 1, 3), t(8), [1], [1], [1], False, [0], 4),
        sample(t(2, 6, 5, labeled=[1]), t(9, 2, 3), t(9), [1], [1], [1], False, [0], 3),
        sample(t(3, 6, 5, labeled=[0, 1]), t(4, 6, 3), t(4), [1], [1], [1], False, [0], 1),
        sample(t(3, 6, 5, labeled=[0]), t(4, 6, 3), t(4), [1], [1], [1], False, [0], 1),
        sample(t(3, 6, 5), t(6, 2, 3), t(6), [1], [1], [1], False, [0], 3),
        sample(t(2, 6, 5, labeled=[1]), t(6, 4, 3), t(4), [2], [1], [1], True, [0], 1),
        sample(t(2, 6, 5, labeled=[1]), t(6, 2, 3), t(4), [2], [1], [1], True, [0], 2),
        sample(t(2, 3, 6), t(2, 3, 1), t(2), [1], [0], [1], False, [0], 1),
        sample(t(2, 1, 7), t(1, 1, 3), None, [1], [1], [1], False, [0], 1),
        sample(t(2, 1, 4, 7, labeled=[3]), t(3, 1, 2, 7), t(3), [1, 1], [0, 0], [1, 1], False, [0, 0], 1),
        sample(t(2, 4, 6, labeled=[1, 2]), t(4, 2, 6), t(4), [1], [0], [1], False, [0], 2),
        sample(t(2, 1, 4, 7, labeled=[3]), t(2, 1, 2, 5), t(2), [1, 1], [0, 4], [1, 2], False, [0, 0], 1),
    ],
    resize=_groups,
    masked=masked_convolution,
    macs=convolution_macs,
    sums=_sums,
    matmul=(MatmulView(0, 1, _kernel_owners, _open_channels, _open_result, 2, SlidingKernel(transposed=6, groups=8)),),
)
def convolution(
    call: Call,
    x: LabeledTensor,
    weight: LabeledTensor,
    bias: LabeledTensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> LabeledTensor:
    passed = [] if transposed else _along_space(call, x, weight, stride, padding, dilation)
    held = tuple([array for array in x.arrays if array not in passed])
    if not transposed and not _ROWS_AND_CHANNELS.union(*[array.dims for array in held]) <= _ROWS_AND_CHANNELS:
        held, weight = _read_whole(call, LabeledTensor(x.shape, held), weight, padding, dilation)
    x = maps_over_space(call, LabeledTensor(x.shape, held), range(2, x.ndim), SPACE)
    x = rows_apart(call.labels, x)
    out = through_kernel(call, x, weight, transposed, groups)
    if bias is not None:
        out = LabeledTensor(out.shape, tuple(align(call.labels, (out, bias), out.shape)))
    batch = [array for array in x.arrays if array.dims == {0}]
    return LabeledTensor(call.out, (*beside(out, 1, len(call.out)), *batch, *passed))


def through_kernel(call: Call, x: LabeledTensor, weight: LabeledTensor, transposed: bool, groups: int) -> LabeledTensor:
    """The channels that a kernel makes of those of ``x``, as a vector."""
    vector, kernel = channels(call, x, 1, SPACE), _kernel(call, weight)
    return _transposed(call, vector, kernel, groups) if transposed else _forward(call, vector, kernel, groups)


def rows_apart(labels: Labels, x: LabeledTensor) -> LabeledTensor:
    """Channels of which one vector says something (a kernel, a scale) are the same in every row of the batch.

    So whole rows go, and whole channels.
    """
    arrays: list[LabelArray] = []
    for array in x.arrays:
        if array.dims != {0, 1}:
            arrays.append(array)
        elif array.cell:
            arrays.append(array.at(tied_along(labels, array.ids, frozenset((0,)))))
        else:
            outer = frozenset(outer_first(array)[:1])
            row, cell = labels.refine(array, outer)
            arrays += [row, cell.at(tied_along(labels, cell.ids, outer))]
    return LabeledTensor(x.shape, tuple(arrays), x.movable)


def _along_space(
    call: Call,
    x: LabeledTensor,
    weight: LabeledTensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[LabelArray]:
    """Labels of channels laid out as space that pass: those a kernel of one looks at, and of one map its neighbors.

    The kernel must not change their number, however many they are.
    """
    passed: list[LabelArray] = []
    space = x.ndim - 2
    given = [list(v) * (space if len(v) == 1 else 1) for v in (stride, padding, dilation)]
    for i, (step, pad, spread) in enumerate(zip(*given, strict=True)):
        width = weight.shape[2 + i]
        if step == 1 and 2 * pad == spread * (width - 1) and (width == 1 or x.shape[1] == 1):
            passed.extend(array for array in x.arrays if array.dims == {2 + i})
            if width > 1:
                _mix_neighbors(call, x.touching([2 + i]))
    return passed


def _read_whole(
    call: Call, x: LabeledTensor, weight: LabeledTensor, padding: Sequence[int], dilation: Sequence[int]
) -> tuple[tuple[LabelArray, ...], LabeledTensor]:
    """Dimensions that a kernel is as wide as, which it does not slide along, are contracted.

    Returns:
        The labels of ``x`` without those along these dimensions, and the kernel without its own.
    """
    held = x.arrays
    for dim in _whole(x.shape, weight.shape, padding, dilation):
        own, its = ([array for array in value.arrays if dim in array.dims] for value in (x, weight))
        if [array.dims for array in (*own, *its)] == [{dim}, {dim}]:
            call.labels.unify(own[0].ids.ravel(), its[0].ids.ravel())
            held = tuple(array for array in held if array is not own[0])
            weight = weight.moved(weight.shape, [array for array in weight.arrays if array is not its[0]])
    return held, weight


def _mix_neighbors(call: Call, arrays: Sequence[LabelArray]) -> None:
    for array in arrays:
        call.labels.mixes_channels(f"{call.op} slides over channels, which get new neighbors")
        call.labels.in_order(array.ids)


def _kernel(call: Call, weight: LabeledTensor) -> LabeledTensor:
    call.labels.fix([array for array in weight.arrays if array.dims - {0, 1}], NOT_A_CHANNEL)
    return only(weight, [0, 1])


def _forward(call: Call, x: LabeledTensor, kernel: LabeledTensor, groups: int) -> LabeledTensor:
    """``x`` is [I], ``kernel`` [O, I / groups]."""
    if groups == 1:
        return contract(call.labels, placed(x, (1,), 2), kernel, [1])
    o, i = kernel.shape
    labels = call.labels
    parts = placed(reshape(labels, x, (groups, i)), (0, 2), 3)
    return _by_group(call, parts, reshape(labels, kernel, (groups, o // groups, i)), (o,))


def _transposed(call: Call, x: LabeledTensor, kernel: LabeledTensor, groups: int) -> LabeledTensor:
    """``x`` is [I], ``kernel`` [I, O / groups]."""
    if groups == 1:
        return contract(call.labels, placed(x, (0,), 2), kernel, [0])
    i, o = kernel.shape
    labels = call.labels
    parts = placed(reshape(labels, x, (groups, i // groups)), (0, 2), 3)
    weight = placed(reshape(labels, kernel, (groups, i // groups, o)), (0, 2, 1), 3)
    return _by_group(call, parts, weight, (groups * o,))


def _by_group(call: Call, x: LabeledTensor, weight: LabeledTensor, out: tuple[int]) -> LabeledTensor:
    """``x`` is [groups, 1, i], ``weight`` [groups, o, i]; the result is [groups * o]."""
    product = contract(call.labels, x, weight, [2])
    rows = [array for array in product.arrays if array.dims == {0}]
    call.count("groups", only(LabeledTensor(product.shape, tuple(rows)), [0]))
    for array in product.arrays:
        if len(array.dims) == 2:
            call.labels.rectangle(array.ids)
    return reshape(call.labels, product, out)
