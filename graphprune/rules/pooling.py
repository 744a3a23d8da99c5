"""Operations over space: channels pass through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphprune.rules.alignment import align
from graphprune.rules.ending import ended, maps_over_space
from graphprune.rules.labels import LabeledTensor
from graphprune.rules.registry import Call, rule
from graphprune.rules.samples import fractions, ints, sample, t

aten = torch.ops.aten


def over_space(call: Call, x: LabeledTensor, *_: Any, **__: Any) -> Any:
    """Batch and channel dimensions pass; a label in one of the last 1, 2 or 3 dimensions is fixed."""
    space = next(int(letter) for letter in call.op if letter.isdigit())
    dims = range(x.ndim - space, x.ndim)
    arrays = maps_over_space(call, x, dims, "acts over this dimension as space").arrays
    outs = tuple(LabeledTensor(shape, arrays if len(shape) == x.ndim else ()) for shape in call.outs)
    return outs if len(outs) > 1 else outs[0]


def over_windows(
    call: Call,
    x: LabeledTensor,
    size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    *_: Any,
) -> LabeledTensor:
    """As ``over_space``, but where windows of one entry lie side by side a dimension passes."""
    windows = zip(*(_each(v, len(size)) for v in (size, stride or size, padding)), strict=True)
    still = {x.ndim - len(size) + i for i, window in enumerate(windows) if window == (1, 1, 0)}
    passing = tuple(array for array in x.arrays if array.dims and array.dims <= still)
    out = over_space(
        call, LabeledTensor(x.shape, tuple(array for array in x.arrays if not array.dims or array.dims - still))
    )
    return LabeledTensor(call.out, (*out.arrays, *passing))


def _each(values: Sequence[int], rank: int) -> list[int]:
    return list(values) * (rank if len(values) == 1 else 1)


IMAGE = t(2, 4, 6, 6)


WAVE = t(2, 4, 6)


VOLUME = t(2, 4, 4, 4, 4, labeled=[1])


@rule(
    aten.fractional_max_pool2d.default,
    samples=[
        sample(IMAGE, [2, 2], [3, 3], fractions(2, 4, 2)),
        sample(t(4, 6, 6), [2, 2], [3, 3], fractions(1, 4, 2)),
    ],
)
@rule(aten.fractional_max_pool3d.default, samples=[sample(VOLUME, [2, 2, 2], [2, 2, 2], fractions(2, 4, 3))])
def over_random_windows(call: Call, x: LabeledTensor, size: Any, output: Any, drawn: LabeledTensor) -> Any:
    """As ``over_space``; each channel has windows of its own, by random numbers. [n, channels, 2 or 3]"""
    leading, space = x.ndim - drawn.shape[-1], (1,) * drawn.shape[-1]
    numbers = ended(call, drawn, [-1], "places windows in space")
    shape = (*drawn.shape[2 - leading : 2], *space)
    arrays = [a.at(a.ids.reshape(*a.ids.shape[2 - leading : 2], *space)) for a in numbers.arrays]
    both = (x, LabeledTensor(shape, tuple(arrays)))
    return over_space(call, LabeledTensor(x.shape, tuple(align(call.labels, both, x.shape))))


rule(aten.max_pool2d_with_indices.default, samples=[sample(IMAGE, [2, 2], [2, 2])])(over_space)
rule(aten.max_pool3d_with_indices.default, samples=[sample(t(2, 4, 4, 4, 4, labeled=[1]), [2, 2, 2])])(over_space)
rule(aten.avg_pool1d.default, samples=[sample(WAVE, [2])])(over_space)
rule(
    aten.avg_pool2d.default,
    samples=[sample(IMAGE, [2, 2]), sample(t(2, 4, 6, 5), [2, 1], [2, 1]), sample(t(2, 4, 5), [3, 1], [1])],
)(over_windows)
rule(aten.avg_pool3d.default, samples=[sample(t(2, 4, 4, 4, 4, labeled=[1]), [2, 2, 2])])(over_space)
rule(aten._adaptive_avg_pool2d.default, samples=[sample(IMAGE, [3, 3])])(over_space)
rule(aten._adaptive_avg_pool3d.default, samples=[sample(t(2, 4, 4, 4, 4, labeled=[1]), [2, 2, 2])])(over_space)
rule(aten.adaptive_max_pool2d.default, samples=[sample(IMAGE, [3, 3])])(over_space)
rule(aten.upsample_nearest1d.default, samples=[sample(WAVE, [12])])(over_space)
rule(aten.upsample_nearest2d.default, samples=[sample(IMAGE, [12, 12])])(over_space)
rule(aten._upsample_nearest_exact2d.default, samples=[sample(IMAGE, [12, 12])])(over_space)
rule(aten.upsample_bilinear2d.default, samples=[sample(IMAGE, [12, 12], False)])(over_space)
rule(aten._upsample_bilinear2d_aa.default, samples=[sample(IMAGE, [12, 12], False)])(over_space)
rule(aten.upsample_bicubic2d.default, samples=[sample(IMAGE, [12, 12], False)])(over_space)
rule(aten._upsample_bicubic2d_aa.default, samples=[sample(IMAGE, [12, 12], False)])(over_space)
rule(aten.reflection_pad1d.default, samples=[sample(WAVE, [1, 1])])(over_space)
rule(aten.reflection_pad2d.default, samples=[sample(IMAGE, [1, 1, 1, 1])])(over_space)
rule(aten.replication_pad2d.default, samples=[sample(IMAGE, [1, 1, 1, 1])])(over_space)
rule(aten.adaptive_max_pool3d.default, samples=[sample(VOLUME, [2, 2, 2])])(over_space)
rule(aten._upsample_nearest_exact1d.default, samples=[sample(WAVE, [12])])(over_space)
rule(aten.upsample_linear1d.default, samples=[sample(WAVE, [12], False)])(over_space)
rule(aten.upsample_nearest3d.default, samples=[sample(VOLUME, [8, 8, 8])])(over_space)
rule(aten._upsample_nearest_exact3d.default, samples=[sample(VOLUME, [8, 8, 8])])(over_space)
rule(aten.upsample_trilinear3d.default, samples=[sample(VOLUME, [8, 8, 8], False)])(over_space)
rule(aten.reflection_pad3d.default, samples=[sample(VOLUME, [1, 1, 1, 1, 1, 1])])(over_space)
rule(aten.replication_pad1d.default, samples=[sample(WAVE, [1, 1])])(over_space)
rule(aten.replication_pad3d.default, samples=[sample(VOLUME, [1, 1, 1, 1, 1, 1])])(over_space)


@rule(
    aten.max_unpool2d.default,
    samples=[
        sample(t(2, 4, 3, 3), ints(2, 4, 3, 3, below=36, labeled=[1]), [6, 6]),
        sample(t(4, 3, 3), ints(4, 3, 3, below=36, labeled=[0]), [6, 6]),
    ],
)
@rule(
    aten.max_unpool3d.default,
    samples=[
        sample(t(2, 4, 2, 2, 2), ints(2, 4, 2, 2, 2, below=64, labeled=[1]), [4, 4, 4], [2, 2, 2], [0, 0, 0]),
    ],
)
def max_unpool(call: Call, x: LabeledTensor, places: LabeledTensor, size: Sequence[int], *_: Any) -> LabeledTensor:
    """Every entry goes to its place in the plane (or volume) of its channel. [..., c, h, w] to [..., c, H, W]."""
    space = range(x.ndim - len(size), x.ndim)
    operands = [ended(call, operand, space, "places in space") for operand in (x, places)]
    arrays = [array for array in align(call.labels, operands, x.shape) if not array.dims & set(space)]
    return LabeledTensor(call.out, tuple(arrays))
