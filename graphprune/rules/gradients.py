"""Gradients of inputs, as models have them that return one: forces of an energy, the flow of a Hamiltonian.

Channels go the way back that they came. The gradient of a weight keeps everything that it is made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from graphprune.rules.alignment import align, tie
from graphprune.rules.convolution import SPACE, beside, channels, rows_apart, through_kernel
from graphprune.rules.ending import maps_over_space
from graphprune.rules.labels import LabeledTensor
from graphprune.rules.macs import convolution_gradient_macs
from graphprune.rules.normalization import mark_mixing, per_channel
from graphprune.rules.pointwise import elementwise
from graphprune.rules.pooling import over_space
from graphprune.rules.registry import Call, Slim, rule
from graphprune.rules.samples import ints, positive, sample, t
from graphprune.rules.traits import Trait
from graphprune.utils.operators import Args

aten = torch.ops.aten

_OF_INPUT = [True, False, False]


def _held(call: Call, *operands: LabeledTensor | None) -> tuple[LabeledTensor, ...]:
    """What is known of the results where the gradient of a weight is one."""
    call.freeze([one for one in operands if one is not None], "the gradient of a weight is a result")
    return tuple([LabeledTensor(shape) for shape in call.outs])


def _and_none(call: Call, found: LabeledTensor) -> tuple[LabeledTensor, ...]:
    """The gradient of the input, and the others, which are not computed."""
    return found, *(LabeledTensor(shape) for shape in call.outs[1:])


# ---------------------------------------------------------------- elementwise


@rule(
    aten.hardsigmoid_backward.default,
    aten.hardswish_backward.default,
    samples=[sample(t(2, 6), t(2, 6))],
    traits=[Trait.ENTRYWISE],
)
@rule(
    aten.hardtanh_backward.default,
    samples=[sample(t(2, 6), t(2, 6), -0.5, 0.5)],
    traits=[Trait.ENTRYWISE],
)
@rule(
    aten.elu_backward.default,
    samples=[sample(t(2, 6), 1.0, 1.0, 1.0, False, t(2, 6))],
    traits=[Trait.ENTRYWISE],
)
@rule(
    aten.leaky_relu_backward.default,
    samples=[sample(t(2, 6), t(2, 6), 0.1, False)],
    traits=[Trait.ENTRYWISE],
)
@rule(
    aten.softplus_backward.default,
    samples=[sample(t(2, 6), t(2, 6), 1.0, 20.0), sample(t(1, 6), t(3, 2, 6), 1.0, 20.0)],
    traits=[Trait.ENTRYWISE],
)
@rule(
    aten.log_sigmoid_backward.default,
    samples=[sample(t(2, 6), t(2, 6), t(2, 6))],
    traits=[Trait.ENTRYWISE],
)
def untagged_gradient(call: Call, *args: Any) -> LabeledTensor:
    """The gradient of an elementwise operation, as models have it that return one (a force, a Hamiltonian's flow).

    Gradients may be broadcast, as those of many samples at once; and on some devices ``log_sigmoid`` leaves nothing,
    an empty tensor, for its gradient.
    """
    return elementwise(call, *(a for a in args if isinstance(a, LabeledTensor) and 0 not in a.shape))


@rule(aten._prelu_kernel_backward.default, samples=[sample(t(2, 6), t(2, 6), t(1, 6)).looking_at(0)])
def prelu_gradient(call: Call, *args: LabeledTensor) -> tuple[LabeledTensor, ...]:
    if call.used is None or 1 in call.used:
        return _held(call, *args)
    return _and_none(call, elementwise(call, *args))


# ---------------------------------------------------------------- convolutions


def _gradient_sizes(slim: Slim, args: Args) -> Args:
    biases = [slim.counts["outputs"]] if args[3] and args[3] != [0] else args[3]
    return *args[:3], biases, *args[4:9], slim.counts.get("groups", 1), *args[10:]


@rule(
    aten.convolution_backward.default,
    samples=[
        sample(of, x, weight, bias, [1], [1], [1], False, [0], groups, _OF_INPUT).looking_at(0)
        for of, x, weight, bias, groups in (
            (t(2, 4, 5, labeled=[1]), t(2, 6, 5, labeled=[1]), t(4, 6, 3), [4], 1),
            (t(2, 6, 5, labeled=[1]), t(2, 6, 5, labeled=[1]), t(6, 1, 3), None, 6),
            (t(2, 9, 5, labeled=[1]), t(2, 6, 5, labeled=[1]), t(9, 2, 3), [9], 3),
        )
    ]
    + [
        sample(
            t(2, 4, 9, labeled=[1]), t(2, 6, 5, labeled=[1]), t(6, 4, 3), [4], [2], [1], [1], True, [0], 1, _OF_INPUT
        ).looking_at(0)
    ],
    resize=_gradient_sizes,
    macs=convolution_gradient_macs,
    sums=lambda *args: [(0, [1]), (2, [1 if args[7] else 0])],
)
def convolution_gradient(
    call: Call,
    gradient: LabeledTensor,
    x: LabeledTensor,
    weight: LabeledTensor,
    bias_sizes: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    wanted: Sequence[bool],
) -> tuple[LabeledTensor, ...]:
    """The other way through the same kernel."""
    if wanted[1] or wanted[2]:
        return _held(call, gradient, x, weight)
    gradient = rows_apart(call.labels, maps_over_space(call, gradient, range(2, gradient.ndim), SPACE))
    call.count("outputs", channels(call, gradient, 1, SPACE))
    out = through_kernel(call, gradient, weight, not transposed, groups)
    out = LabeledTensor(out.shape, tuple(align(call.labels, (out, channels(call, x, 1, SPACE)), out.shape)))
    batch = [array for array in gradient.arrays if array.dims == {0}]
    return _and_none(call, LabeledTensor(call.out, (*beside(out, 1, len(call.out)), *batch)))


# ---------------------------------------------------------------- normalizations


@rule(
    aten.native_batch_norm_backward.default,
    samples=[
        sample(t(2, 4, 3, labeled=[1]), t(2, 4, 3, labeled=[1]), t(4), t(4), positive(4), *rest).looking_at(0)
        for rest in ((None, None, False, 1e-5, _OF_INPUT), (t(0), t(0), False, 1e-5, _OF_INPUT))
    ],
)
def batch_norm_gradient(
    call: Call,
    gradient: LabeledTensor,
    x: LabeledTensor,
    weight: LabeledTensor | None,
    mean: LabeledTensor | None,
    variance: LabeledTensor | None,
    batch_mean: Any,
    batch_scale: Any,
    training: bool,
    eps: float,
    wanted: Sequence[bool],
) -> tuple[LabeledTensor, ...]:
    if training or wanted[1] or wanted[2]:
        return _held(call, gradient, x, weight, mean, variance)
    both = LabeledTensor(x.shape, tuple(align(call.labels, (gradient, x), x.shape)))
    return _and_none(call, per_channel(call, both, 1, weight, mean, variance))


def masked_layer_norm_gradient(
    alive: Tensor,
    gradient: Tensor,
    x: Tensor,
    shape: Sequence[int],
    mean: Tensor,
    scale: Tensor,
    weight: Tensor | None,
    *_: Any,
) -> tuple[Tensor, None, None]:
    """What is normalized changes its own mean and variance, of the living entries."""
    dims = list(range(x.ndim - len(shape), x.ndim))
    alive = alive.expand(x.shape).to(x.dtype)
    count = alive.sum(dims, keepdim=True).clamp(min=1)
    scaled, normal = gradient if weight is None else gradient * weight, (x - mean) * scale
    along = [(value * alive).sum(dims, keepdim=True) / count for value in (scaled, scaled * normal)]
    return scale * (scaled - along[0] - normal * along[1]), None, None


def _normalized_shape(slim: Slim, args: Args) -> Args:
    gradient, x, shape, *rest = args
    return gradient, x, list(slim.outs[0][len(slim.outs[0]) - len(shape) :]), *rest


_BY_ROW = t(2, 3, 1, labeled=[])


@rule(
    aten.native_layer_norm_backward.default,
    samples=[
        sample(t(2, 3, 6), t(2, 3, 6), [6], _BY_ROW, _BY_ROW, factor, factor, _OF_INPUT).looking_at(0)
        for factor in (t(6), None)
    ],
    resize=_normalized_shape,
    masked=masked_layer_norm_gradient,
)
def layer_norm_gradient(
    call: Call,
    gradient: LabeledTensor,
    x: LabeledTensor,
    shape: Sequence[int],
    mean: LabeledTensor,
    scale: LabeledTensor,
    weight: LabeledTensor | None,
    bias: LabeledTensor | None,
    wanted: Sequence[bool],
) -> tuple[LabeledTensor, ...]:
    operands = [v for v in (gradient, x, mean, scale, weight, bias) if v is not None]
    if wanted[1] or wanted[2]:
        return _held(call, *operands)
    out = LabeledTensor(x.shape, tuple(align(call.labels, operands, x.shape)))
    mark_mixing(call, out, range(x.ndim - len(shape), x.ndim))
    return _and_none(call, out)


@rule(
    aten._softmax_backward_data.default,
    aten._log_softmax_backward_data.default,
    samples=[sample(t(3, 4), t(3, 4), 1, torch.float64), sample(t(2, 3, 4), t(2, 3, 4), -2, torch.float64)],
)
def softmax_gradient(call: Call, gradient: LabeledTensor, out: LabeledTensor, dim: int, dtype: Any) -> LabeledTensor:
    """Entries that are gone have a gradient of zero, and add nothing to the sum over the others."""
    found = LabeledTensor(out.shape, tuple(align(call.labels, (gradient, out), out.shape)))
    tie(call.labels, found, [dim % out.ndim])
    return found


# ---------------------------------------------------------------- over space


def of_pooled(call: Call, gradient: LabeledTensor, *args: Any) -> LabeledTensor:
    """[..., small] to [..., large]; maps of the input and of the places in it are those of the gradient."""
    space = len(call.out) - next(int(letter) for letter in call.op if letter.isdigit())
    operands = [_flat(call, x, space) for x in (gradient, *args) if isinstance(x, LabeledTensor)]
    return LabeledTensor(call.out, tuple(align(call.labels, operands, operands[0].shape)))


def _flat(call: Call, x: LabeledTensor, first: int) -> LabeledTensor:
    """``x`` with one place of space, which begins with the dimension ``first``."""
    held = maps_over_space(call, x, range(first, x.ndim), "acts over this dimension as space")
    return LabeledTensor(tuple([n if d < first else 1 for d, n in enumerate(x.shape)]), held.arrays)


_SMALL, _LARGE = t(2, 4, 3, 3, labeled=[1]), t(2, 4, 6, 6, labeled=[1])
_SMALL_VOLUME, _LARGE_VOLUME = t(2, 4, 2, 2, 2, labeled=[1]), t(2, 4, 4, 4, 4, labeled=[1])
rule(
    aten.avg_pool2d_backward.default,
    samples=[sample(_SMALL, _LARGE, [2, 2], [2, 2], [0, 0], False, True, None)],
)(of_pooled)
rule(
    aten.avg_pool3d_backward.default,
    samples=[sample(_SMALL_VOLUME, _LARGE_VOLUME, [2, 2, 2], [2, 2, 2], [0, 0, 0], False, True, None)],
)(of_pooled)
rule(aten._adaptive_avg_pool2d_backward.default, samples=[sample(_SMALL, _LARGE)])(of_pooled)
rule(aten._adaptive_avg_pool3d_backward.default, samples=[sample(_SMALL_VOLUME, _LARGE_VOLUME)])(of_pooled)
rule(
    aten.max_pool2d_with_indices_backward.default,
    samples=[
        sample(_SMALL, _LARGE, [2, 2], [2, 2], [0, 0], [1, 1], False, ints(2, 4, 3, 3, below=36, labeled=[1])),
    ],
)(of_pooled)
rule(
    aten.max_pool3d_with_indices_backward.default,
    samples=[
        sample(
            _SMALL_VOLUME,
            _LARGE_VOLUME,
            [2, 2, 2],
            [2, 2, 2],
            [0, 0, 0],
            [1, 1, 1],
            False,
            ints(2, 4, 2, 2, 2, below=64, labeled=[1]),
        )
    ],
)(of_pooled)


def _input_size(slim: Slim, args: Args) -> Args:
    return *args[:2], list(slim.outs[0]), *args[3:]


rule(
    aten.upsample_nearest1d_backward.default,
    samples=[sample(t(2, 4, 6, labeled=[1]), [6], [2, 4, 3])],
    resize=_input_size,
)(over_space)
rule(
    aten.upsample_nearest2d_backward.default,
    samples=[sample(_LARGE, [6, 6], [2, 4, 3, 3])],
    resize=_input_size,
)(over_space)
rule(
    aten.upsample_bilinear2d_backward.default,
    samples=[sample(_LARGE, [6, 6], [2, 4, 3, 3], False)],
    resize=_input_size,
)(over_space)
