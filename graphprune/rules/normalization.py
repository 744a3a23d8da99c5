"""Normalizations. Those that take statistics over channels are pruned through, and marked as inexact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphprune.rules.alignment import align, reduce_dims, tie
from graphprune.rules.convolution import beside, channels, only, rows_apart
from graphprune.rules.ending import maps_over_space
from graphprune.rules.labels import LabelArray, LabeledTensor
from graphprune.rules.movement import reshape
from graphprune.rules.norm import Norm
from graphprune.rules.reduction import summed_dims, vector_norm
from graphprune.rules.registry import Call, Slim, rule
from graphprune.rules.samples import positive, sample, t
from graphprune.rules.traits import Trait
from graphprune.utils.operators import Args

aten = torch.ops.aten


def per_channel(call: Call, x: LabeledTensor, dim: int, *vectors: LabeledTensor | None) -> LabeledTensor:
    """``x`` combined elementwise with vectors laid along ``dim``."""
    rank = x.ndim
    shape = tuple(n if d == dim else 1 for d, n in enumerate(x.shape))
    laid = [LabeledTensor(shape, beside(v, dim, rank), v.movable) for v in vectors if v is not None]
    return LabeledTensor(x.shape, tuple(align(call.labels, (x, *laid), x.shape)))


def masked_batch_norm(
    alive: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch statistics, over what lives of all dimensions but the second."""
    wide = [1, -1, *(1 for _ in x.shape[2:])]
    mean, variance = _masked_moments(x, alive, [d for d in range(x.ndim) if d != 1])
    scale = (variance + eps).rsqrt()
    out = (x - mean) * scale
    out = out if weight is None else out * weight.view(wide)
    out = out if bias is None else out + bias.view(wide)
    return out, mean.flatten(), scale.flatten()


@rule(
    aten.native_batch_norm.default,
    samples=[
        sample(t(2, 4, 3, labeled=[1]), t(4), t(4), t(4), positive(4), False, 0.1, 1e-5),
        sample(t(1, 4, 6), None, None, None, None, True, 0.0, 1e-5),
    ],
    masked=masked_batch_norm,
    norm=Norm(weight=1, bias=2, mean=3, variance=4, training=5, eps=7),
)
def batch_norm(
    call: Call,
    x: LabeledTensor,
    weight: LabeledTensor | None,
    bias: LabeledTensor | None,
    mean: LabeledTensor | None,
    variance: LabeledTensor | None,
    training: bool,
    *_: Any,
) -> tuple[LabeledTensor, ...]:
    out = per_channel(call, x, 1, weight, bias, mean, variance)
    if training:
        mark_mixing(call, out, [d for d in range(x.ndim) if d != 1])
    for array in out.arrays if any({1} < array.dims for array in x.arrays) else ():
        if array.dims == {1}:
            call.labels.whole_maps(array.ids)
    saved = only(LabeledTensor(x.shape, tuple(array for array in out.arrays if array.dims == {1})), [1])
    return out, *(saved if shape == saved.shape else LabeledTensor(shape) for shape in call.outs[1:])


def _masked_moments(x: Tensor, alive: Tensor, dims: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of the living entries over ``dims``."""
    dims = list(dims)
    alive = alive.expand(x.shape).to(x.dtype)
    count = alive.sum(dims, keepdim=True).clamp(min=1)
    mean = (x * alive).sum(dims, keepdim=True) / count
    return mean, ((x - mean).square() * alive).sum(dims, keepdim=True) / count


def masked_layer_norm(
    alive: Tensor, x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    mean, variance = _masked_moments(x, alive, list(range(x.ndim - len(shape), x.ndim)))
    scale = (variance + eps).rsqrt()
    out = (x - mean) * scale
    out = out if weight is None else out * weight
    return (out if bias is None else out + bias), mean, scale


def _normalized_shape(slim: Slim, args: Args) -> Args:
    x, shape, *rest = args
    return x, list(slim.outs[0][len(slim.outs[0]) - len(shape) :]), *rest


@rule(
    aten.native_layer_norm.default,
    samples=[
        sample(t(2, 3, 6), [6], t(6), t(6), 1e-5),
        sample(t(2, 4, 3), [4, 3], t(4, 3), None, 1e-5),
    ],
    resize=_normalized_shape,
    masked=masked_layer_norm,
    norm=Norm(weight=2, bias=3),
)
def layer_norm(
    call: Call,
    x: LabeledTensor,
    shape: Sequence[int],
    weight: LabeledTensor | None,
    bias: LabeledTensor | None,
    eps: float,
) -> tuple[LabeledTensor, ...]:
    operands = [v for v in (x, weight, bias) if v is not None]
    out = LabeledTensor(x.shape, tuple(align(call.labels, operands, x.shape)))
    mixed = range(x.ndim - len(shape), x.ndim)
    mark_mixing(call, out, mixed)
    outer = tuple(array for array in out.arrays if array.dims.isdisjoint(mixed))
    return out, LabeledTensor(call.outs[1], outer), LabeledTensor(call.outs[2], outer)


def mark_mixing(call: Call, x: LabeledTensor, dims: Sequence[int]) -> None:
    """Statistics are taken over these dimensions."""
    tie(call.labels, x, dims)
    if met := x.touching(dims):
        call.labels.mixes_channels(f"{call.op} takes its statistics over channels", met)


def masked_group_norm(
    alive: Tensor,
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    n: int,
    c: int,
    space: int,
    groups: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    shape = (n, groups, c // groups, space)
    parts = x.reshape(shape)
    mean, variance = _masked_moments(parts, alive.expand(x.shape).reshape(shape), (2, 3))
    scale = (variance + eps).rsqrt()
    out = ((parts - mean) * scale).reshape(x.shape)
    wide = (1, c, *(1 for _ in x.shape[2:]))
    out = out if weight is None else out * weight.reshape(wide)
    out = out if bias is None else out + bias.reshape(wide)
    return out, mean.reshape(n, groups), scale.reshape(n, groups)


def _group_norm_sizes(slim: Slim, args: Args) -> Args:
    x, weight, bias, _, _, space, groups, eps = args
    return x, weight, bias, *slim.outs[0][:2], space, slim.counts.get("num_groups", groups), eps


@rule(
    aten.native_group_norm.default,
    samples=[
        sample(t(2, 6, 4, labeled=[1]), t(6), t(6), 2, 6, 4, 1, 1e-5),
        sample(t(2, 6, 4, labeled=[1]), t(6), t(6), 2, 6, 4, 3, 1e-5),
        sample(t(2, 6, 4), t(6), t(6), 2, 6, 4, 3, 1e-5),
        sample(t(2, 6, 4), t(6), None, 2, 6, 4, 6, 1e-5),
        sample(t(2, 6, 4, labeled=[0, 1]), t(6), t(6), 2, 6, 4, 3, 1e-5),
    ],
    resize=_group_norm_sizes,
    masked=masked_group_norm,
    norm=Norm(weight=1, bias=2),
)
def group_norm(
    call: Call,
    x: LabeledTensor,
    weight: LabeledTensor | None,
    bias: LabeledTensor | None,
    n: int,
    c: int,
    space: int,
    groups: int,
    eps: float,
) -> tuple[LabeledTensor, ...]:
    """Whole normalization groups can go (exact), or equally many channels of each group (mixing)."""
    text = "takes its statistics over space"
    x = rows_apart(call.labels, maps_over_space(call, x, range(2, x.ndim), text))
    channels(call, x, 1, text)
    out = per_channel(call, x, 1, weight, bias)
    rows = LabeledTensor((groups,))
    if groups > 1:
        out, rows = _in_groups(call, out, groups)
    if c > groups:
        mark_mixing(call, out, [1])
    statistics = LabeledTensor(call.outs[1], (*beside(rows, 1, 2), *beside(only(x, [0]), 0, 2)))
    return out, statistics, statistics


def _in_groups(call: Call, x: LabeledTensor, groups: int) -> tuple[LabeledTensor, LabeledTensor]:
    """``x`` with its channels refined by group, and the labels of the groups."""
    vector = only(LabeledTensor(x.shape, tuple(array for array in x.arrays if array.dims == {1})), [1])
    parts = reshape(call.labels, vector, (groups, vector.shape[0] // groups))
    arrays: list[LabelArray] = []
    for array in parts.arrays:
        split = array.dims == {0, 1} and not array.cell
        arrays.extend(call.labels.refine(array, frozenset([0])) if split else [array])
    rows = only(LabeledTensor(parts.shape, tuple(array for array in arrays if array.dims == {0})), [0])
    call.count("num_groups", rows)
    flat = reshape(call.labels, LabeledTensor(parts.shape, tuple(arrays)), vector.shape)
    others = tuple(array for array in x.arrays if array.dims != {1})
    return LabeledTensor(x.shape, (*beside(flat, 1, x.ndim), *others)), rows


def masked_softmax(alive: Tensor, x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    return torch.nan_to_num(x.masked_fill(~alive, float("-inf")).softmax(dim))


def masked_log_softmax(alive: Tensor, x: Tensor, dim: int, half_to_float: bool = False) -> Tensor:
    return x.masked_fill(~alive, float("-inf")).log_softmax(dim).masked_fill(~alive, 0.0)


def _softmax_rule(call: Call, x: LabeledTensor, dim: int, *_: Any, **__: Any) -> LabeledTensor:
    mark_mixing(call, x, [dim % x.ndim])
    return x


@rule(
    aten._softmax.default,
    samples=[sample(t(3, 4), 1, False), sample(t(2, 3, 4), -2, False)],
    masked=masked_softmax,
    traits=[Trait.SOFTMAX],
)
def softmax(call: Call, x: LabeledTensor, dim: int, half_to_float: bool) -> LabeledTensor:
    return _softmax_rule(call, x, dim)


@rule(
    aten._safe_softmax.default,
    samples=[sample(t(3, 4), 1)],
    masked=lambda alive, x, dim, dtype=None: masked_softmax(alive, x, dim),
    traits=[Trait.SOFTMAX],
)
def safe_softmax(call: Call, x: LabeledTensor, dim: int, dtype: Any = None) -> LabeledTensor:
    return _softmax_rule(call, x, dim)


@rule(
    aten._log_softmax.default,
    samples=[sample(t(3, 4), 1, False)],
    masked=masked_log_softmax,
    traits=[Trait.SOFTMAX],
)
def log_softmax(call: Call, x: LabeledTensor, dim: int, half_to_float: bool) -> LabeledTensor:
    return _softmax_rule(call, x, dim)


# ---------------------------------------------------------------- norms of weights: zeros add nothing


@rule(aten.norm.Scalar, samples=[sample(t(3, 4), 2)], sums=lambda x, *_: summed_dims(x), traits=[Trait.STATISTIC])
@rule(
    aten.norm.ScalarOpt_dim,
    samples=[sample(t(3, 4, 2), 2, [1]), sample(t(3, 4), 1, [-1], True)],
    sums=lambda x, order=2, dims=None, *_: summed_dims(x, dims),
    traits=[Trait.STATISTIC],
)
def norm(
    call: Call, x: LabeledTensor, order: float | None = 2, dims: Sequence[int] = (), keepdim: bool = False
) -> LabeledTensor:
    return vector_norm(call, x, 2 if order is None else order, dims, keepdim)


def masked_weight_norm(alive: Tensor, v: Tensor, g: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """The norm over the living channels is that of zeros in place of the dead."""
    found: tuple[Tensor, ...] = aten._weight_norm_interface.default(v.masked_fill(~alive, 0), g, dim)
    return found


@rule(
    aten._weight_norm_interface.default,
    samples=[sample(t(4, 3, 2), t(4, 1, 1), 0), sample(t(4, 3), t(1, 3), 1)],
    masked=masked_weight_norm,
)
def weight_norm(call: Call, v: LabeledTensor, g: LabeledTensor, dim: int = 0) -> tuple[LabeledTensor, LabeledTensor]:
    """``v`` times ``g`` over the norm of ``v`` along all dimensions but ``dim``: what is left has the norm of all."""
    out = LabeledTensor(v.shape, tuple(align(call.labels, (v, g), v.shape)))
    others = [d for d in range(v.ndim) if d != dim % v.ndim]
    if met := out.touching(others):
        call.labels.mixes_channels("weight normalization takes the norm of a weight over channels", met)
    return out, LabeledTensor(call.outs[1], tuple(reduce_dims(call.labels, out, others)))


@rule(aten.renorm.default, samples=[sample(t(3, 4, 2), 2, 0, 1.0), sample(t(3, 4), 1, -1, 1.0)])
def renorm(call: Call, x: LabeledTensor, order: float, dim: int, longest: float) -> LabeledTensor:
    """Slices along ``dim`` that are too long become shorter."""
    tie(call.labels, x, [d for d in range(x.ndim) if d != dim % x.ndim])
    return x
