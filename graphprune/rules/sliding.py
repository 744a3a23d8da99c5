"""Windows that slide over space, space that becomes channels, and places in space that are computed.

Channels pass; space is not pruned. Where a channel becomes several (``im2col``, ``pixel_unshuffle``), they carry its
label; where several become one (``col2im``, ``pixel_shuffle``), they live and die together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from graphprune.rules.alignment import align
from graphprune.rules.contraction import placed
from graphprune.rules.convolution import convolution
from graphprune.rules.ending import ended, maps_over_space
from graphprune.rules.labels import LabelArray, LabeledTensor
from graphprune.rules.registry import Call, Slim, rule
from graphprune.rules.samples import sample, t
from graphprune.rules.traits import Trait
from graphprune.utils.operators import Args

aten = torch.ops.aten


_SPACE = "space that a window slides over"


def one_to_many(x: LabeledTensor, dim: int, times: int) -> tuple[LabelArray, ...]:
    """The labels of ``x`` where every entry of ``dim`` has become ``times`` neighbors."""
    return tuple(array.at(np.repeat(array.ids, times, dim)) if dim in array.dims else array for array in x.arrays)


def many_to_one(call: Call, x: LabeledTensor, dim: int, times: int) -> tuple[LabelArray, ...]:
    """The labels of ``x`` where every ``times`` neighbors of ``dim`` have become one entry."""

    def merged(array: LabelArray) -> LabelArray:
        if dim not in array.dims:
            return array
        shape = array.ids.shape
        parts = array.ids.reshape(*shape[:dim], shape[dim] // times, times, *shape[dim + 1 :])
        first = parts.take([0], dim + 1)
        call.labels.unify(parts, first)
        return array.at(first.squeeze(dim + 1))

    return tuple(map(merged, x.arrays))


@rule(
    aten.im2col.default,
    samples=[
        sample(t(2, 4, 5, 5, labeled=[0, 1]), [3, 3], [1, 1], [1, 1], [1, 1]),
        sample(t(4, 5, 5), [2, 1], [1, 1], [0, 0], [1, 1]),
    ],
)
def im2col(call: Call, x: LabeledTensor, kernel: Sequence[int], *_: Any) -> LabeledTensor:
    """[b, c, h, w] to [b, c * kernel, places]."""
    dim = x.ndim - 3
    x = maps_over_space(call, x, (-1, -2), _SPACE)
    arrays = one_to_many(x, dim, math.prod(kernel))
    return LabeledTensor(call.out, tuple(array.at(array.ids.squeeze(-1)) for array in arrays))


@rule(
    aten.col2im.default,
    samples=[
        sample(t(2, 36, 25, labeled=[0, 1]), [5, 5], [3, 3], [1, 1], [1, 1], [1, 1]),
        sample(t(8, 16), [4, 4], [1, 1], [1, 1], [0, 0], [1, 1]),
    ],
)
def col2im(call: Call, x: LabeledTensor, size: Sequence[int], kernel: Sequence[int], *_: Any) -> LabeledTensor:
    """[b, c * kernel, places] to [b, c, h, w]."""
    arrays = many_to_one(call, ended(call, x, [-1], _SPACE), x.ndim - 2, math.prod(kernel))
    return LabeledTensor(call.out, tuple(array.at(array.ids[..., None]) for array in arrays))


@rule(aten.pixel_shuffle.default, samples=[sample(t(2, 16, 3, 3), 2), sample(t(18, 3, 3, labeled=[0]), 3)])
def pixel_shuffle(call: Call, x: LabeledTensor, factor: int) -> LabeledTensor:
    """[..., c * factor**2, h, w] to [..., c, h * factor, w * factor]."""
    x = maps_over_space(call, x, (-1, -2), _SPACE)
    return LabeledTensor(call.out, many_to_one(call, x, x.ndim - 3, factor**2))


@rule(aten.pixel_unshuffle.default, samples=[sample(t(2, 4, 4, 6), 2), sample(t(4, 6, 3, labeled=[0]), 3)])
def pixel_unshuffle(call: Call, x: LabeledTensor, factor: int) -> LabeledTensor:
    x = maps_over_space(call, x, (-1, -2), _SPACE)
    return LabeledTensor(call.out, one_to_many(x, x.ndim - 3, factor**2))


@rule(
    aten.channel_shuffle.default,
    aten.native_channel_shuffle.default,
    samples=[sample(t(2, 8, 3), 2), sample(t(2, 12, 3, 3, labeled=[1]), 3)],
    resize=lambda slim, args: (args[0], slim.counts.get("groups", args[1])),
    traits=[Trait.SHUFFLES],
)
def channel_shuffle(call: Call, x: LabeledTensor, groups: int) -> LabeledTensor:
    """[b, groups, c] to [b, c, groups], both seen as one dimension: equally many stay in every group that stays."""
    x = ended(call, x, range(2, x.ndim), "shuffled as one piece with its channel")
    parts = tuple(array.at(array.ids[:1].reshape(groups, -1)) for array in x.arrays if 1 in array.dims)
    call.count("groups", LabeledTensor((groups, x.shape[1] // groups), parts))

    def shuffled(array: LabelArray) -> LabelArray:
        if 1 not in array.dims:
            return array
        rows = array.ids.reshape(len(array.ids), groups, -1)
        for sample_rows in rows:
            call.labels.rectangle(sample_rows)
        return array.at(rows.swapaxes(1, 2).reshape(array.ids.shape))

    return LabeledTensor(x.shape, tuple(map(shuffled, x.arrays)))


@rule(
    aten.unfold.default,
    samples=[sample(t(2, 3, 8), 2, 3, 2), sample(t(6, 4), 0, 2, 2)],
)
def unfold(call: Call, x: LabeledTensor, dim: int, size: int, step: int) -> LabeledTensor:
    """Windows of one dimension become a new last one."""
    if not x.ndim:
        return LabeledTensor(call.out)
    x = ended(call, x, [dim], _SPACE)
    return LabeledTensor(call.out, tuple(array.at(array.ids[..., None]) for array in x.arrays))


@rule(
    aten.grid_sampler_2d.default,
    aten.grid_sampler.default,
    samples=[
        sample(t(2, 4, 5, 5), t(2, 3, 6, 2), 0, 0, False),
        sample(t(3, 4, 5, 5, labeled=[0, 1]), t(3, 2, 3, 2, labeled=[0, 2]), 1, 1, True),
    ],
)
@rule(aten.grid_sampler_3d.default, samples=[sample(t(2, 4, 3, 3, 3, labeled=[1]), t(2, 2, 2, 2, 3), 0, 0, False)])
def grid_sampler(call: Call, x: LabeledTensor, grid: LabeledTensor, *_: Any) -> LabeledTensor:
    """``x`` [b, c, space] at the places ``grid`` [b, places, coordinates]: [b, c, places]."""
    rank = x.ndim
    x = maps_over_space(call, x, range(2, rank), "space in which places are sampled")
    grid = ended(call, grid, [-1], "coordinates of places")
    image = LabeledTensor((*x.shape[:2], *[1] * (rank - 2)), x.arrays)
    places = LabeledTensor(grid.shape[:-1], tuple(array.at(array.ids.squeeze(-1)) for array in grid.arrays))
    operands = image, placed(places, (0, *range(2, rank)), rank)
    return LabeledTensor(call.out, tuple(align(call.labels, operands, call.out)))


def _deformable_groups(slim: Slim, args: Args) -> Args:
    return *args[:11], slim.counts.get("groups", args[11]), *args[12:]


_OFFSETS, _MASKS = t(2, 18, 5, 5, labeled=[]), t(2, 9, 5, 5, labeled=[])


_TWO_OFFSETS, _TWO_MASKS = t(2, 36, 5, 5, labeled=[]), t(2, 18, 5, 5, labeled=[])


_SAME_SIZE = (1, 1, 1, 1, 1, 1)


@rule(
    "torchvision::deform_conv2d",
    samples=[
        sample(t(2, 6, 5, 5, labeled=[1]), t(4, 6, 3, 3), _OFFSETS, _MASKS, t(4), *_SAME_SIZE, 1, 1, True),
        sample(t(2, 8, 5, 5, labeled=[1]), t(4, 8, 3, 3), _TWO_OFFSETS, _TWO_MASKS, t(4), *_SAME_SIZE, 1, 2, True),
        sample(t(2, 6, 5, 5, labeled=[1]), t(6, 2, 3, 3), _OFFSETS, _MASKS, t(6), *_SAME_SIZE, 3, 1, False),
    ],
    resize=_deformable_groups,
)
def deformable(
    call: Call,
    x: LabeledTensor,
    weight: LabeledTensor,
    offset: LabeledTensor,
    mask: LabeledTensor,
    bias: LabeledTensor,
    *numbers: Any,
) -> LabeledTensor:
    """A convolution at places that are computed; each group of offsets moves equally many channels."""
    call.freeze((offset, mask), "places of a kernel")
    x = maps_over_space(call, x, (2, 3), _SPACE)
    groups, offset_groups = numbers[6:8]
    for array in x.arrays:
        if array.dims == {1} and offset_groups > 1:
            call.labels.rectangle(array.ids.reshape(offset_groups, -1))
    return convolution(call, x, weight, bias, [], [], [], False, [], groups)
