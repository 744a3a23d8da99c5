"""Further reductions and running ones: extremes, products, counts, deviations; and diagonals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphprune.rules.alignment import align, reduce_dims
from graphprune.rules.ending import ended
from graphprune.rules.labels import LabeledTensor
from graphprune.rules.pointwise import elementwise
from graphprune.rules.reduction import (
    NUMBERS,
    _mixing,
    cumsum,
    masked_mean,
    masked_median,
    masked_variance,
    numbers_used,
    reduced,
    summed_dims,
    variance,
    variance_and_mean,
    with_indices,
)
from graphprune.rules.registry import Call, rule
from graphprune.rules.samples import bools, sample, t
from graphprune.rules.traits import Trait

aten = torch.ops.aten


INFINITY = float("inf")


def filled(op: Callable[..., Any], value: float) -> Callable[..., Any]:
    """An operation over what lives: the dead have the ``value`` that changes nothing."""

    def masked(alive: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return op(x.masked_fill(~alive, value), *args, **kwargs)

    return masked


def _all_or_some(call: Call, x: LabeledTensor, dims: Any = None, keepdim: bool = False) -> LabeledTensor:
    return reduced(call, x, [dims] if isinstance(dims, int) else dims, keepdim)


# ---------------------------------------------------------------- what zeros do not change


@rule(aten.any.default, aten._is_any_true.default, samples=[sample(bools(3, 4))], sums=summed_dims)
@rule(aten.any.dim, samples=[sample(bools(3, 4), 1), sample(bools(3, 4), 0, True)], sums=summed_dims)
@rule(aten.any.dims, samples=[sample(bools(3, 4, 2), [1])], sums=summed_dims)
def any_(call: Call, x: LabeledTensor, dims: Any = None, keepdim: bool = False) -> LabeledTensor:
    return _all_or_some(call, x, dims, keepdim)


@rule(aten.count_nonzero.default, samples=[sample(t(3, 4)), sample(t(3, 4), 1)], sums=summed_dims)
@rule(aten.count_nonzero.dim_IntList, samples=[sample(t(3, 4, 2), [1, 2])], sums=summed_dims)
def count_nonzero(call: Call, x: LabeledTensor, dims: Any = None) -> LabeledTensor:
    return _all_or_some(call, x, dims)


@rule(
    aten.dist.default,
    samples=[sample(t(3, 4), t(3, 4), 2), sample(t(3, 4), t(4), 1)],
    sums=lambda x, y, *_: [*summed_dims(x), (1, range(len(y.meta["shape"])))],
    traits=[Trait.COMPARES],
)
def dist(call: Call, x: LabeledTensor, y: LabeledTensor, order: float = 2) -> LabeledTensor:
    shape = tuple(np.broadcast_shapes(x.shape, y.shape))
    difference = LabeledTensor(shape, tuple(align(call.labels, (x, y), shape)))
    if order <= 0 or x.shape != y.shape:  # what one has lost, the other would be compared with zero there
        call.freeze((x, y), "compares what lives with zeros")
    reduce_dims(call.labels, difference, range(len(shape)))
    return LabeledTensor(call.out)


# ---------------------------------------------------------------- what they would change


@rule(aten.all.default, samples=[sample(bools(3, 4))], masked=filled(aten.all.default, True))
@rule(aten._is_all_true.default, samples=[sample(bools(3, 4))], masked=filled(aten._is_all_true.default, True))
@rule(aten.all.dim, samples=[sample(bools(3, 4), 1)], masked=filled(aten.all.dim, True))
@rule(aten.all.dims, samples=[sample(bools(3, 4, 2), [1])], masked=filled(aten.all.dims, True))
@rule(aten.max.default, samples=[sample(t(3, 4))], masked=filled(aten.max.default, -INFINITY))
@rule(aten.min.default, samples=[sample(t(3, 4))], masked=filled(aten.min.default, INFINITY))
@rule(aten.nanmedian.default, samples=[sample(t(3, 4))], masked=filled(aten.nanmedian.default, float("nan")))
@rule(
    aten.median.default,
    samples=[sample(t(3, 4))],
    masked=lambda alive, x: masked_median(alive.expand(x.shape).flatten(), x.flatten(), 0)[0],
)
@rule(aten.logsumexp.default, samples=[sample(t(3, 4), [1])], masked=filled(aten.logsumexp.default, -INFINITY))
def extreme(call: Call, x: LabeledTensor, dims: Any = None, keepdim: bool = False) -> LabeledTensor:
    _mixing(call, x, [dims] if isinstance(dims, int) else dims)
    return _all_or_some(call, x, dims, keepdim)


@rule(aten.prod.default, samples=[sample(t(3, 4))], masked=filled(aten.prod.default, 1.0))
@rule(aten.prod.dim_int, samples=[sample(t(3, 4), 1), sample(t(3, 4), 0, True)], masked=filled(aten.prod.dim_int, 1.0))
def product(call: Call, x: LabeledTensor, dim: int | None = None, keepdim: bool = False, **_: Any) -> LabeledTensor:
    return extreme(call, x, dim, keepdim)


def masked_extremes(alive: Tensor, x: Tensor, *, dim: int | None = None, keepdim: bool = False) -> tuple[Tensor, ...]:
    dims = list(range(x.ndim)) if dim is None else [dim]
    least = x.masked_fill(~alive, INFINITY).amin(dims, keepdim)
    return least, x.masked_fill(~alive, -INFINITY).amax(dims, keepdim)


@rule(aten.aminmax.default, samples=[sample(t(3, 4)), sample(t(3, 4), dim=1, keepdim=True)], masked=masked_extremes)
def extremes(
    call: Call, x: LabeledTensor, *, dim: int | None = None, keepdim: bool = False
) -> tuple[LabeledTensor, LabeledTensor]:
    out = extreme(call, x, dim, keepdim)
    return out, out


def masked_deviation(alive: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return masked_variance(alive, x, *args, **kwargs).sqrt()


def masked_deviation_and_mean(
    alive: Tensor, x: Tensor, dims: Sequence[int] | None = None, *, correction: Any = 1, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    spread = masked_variance(alive, x, dims, 1 if correction is None else correction, keepdim)
    return spread.sqrt(), masked_mean(alive, x, dims, keepdim)


rule(
    aten.std.correction,
    samples=[sample(t(2, 6, 4), [1], correction=0, keepdim=True), sample(t(3, 5, 4, labeled=[0]), [1, 2])],
    masked=masked_deviation,
    traits=[Trait.STATISTIC],
)(variance)
rule(
    aten.std_mean.correction,
    samples=[sample(t(2, 6, 4), [1], correction=0, keepdim=True)],
    masked=masked_deviation_and_mean,
    traits=[Trait.STATISTIC],
)(variance_and_mean)


# ---------------------------------------------------------------- running along a dimension


@rule(aten.cumprod.default, samples=[sample(t(2, 4, 3), 1)], masked=filled(aten.cumprod.default, 1.0))
@rule(aten.logcumsumexp.default, samples=[sample(t(2, 4, 3), 1)], masked=filled(aten.logcumsumexp.default, -INFINITY))
def running(call: Call, x: LabeledTensor, dim: int, **_: Any) -> LabeledTensor:
    """The dead are passed over: exact, as long as those behind them stay behind them."""
    out = cumsum(call, x, dim)
    _mixing(call, x, [dim])
    return out


_RUNNING = (sample(t(3, 4, 2), 1), sample(t(3, 4, 2), 1).looking_at(0))


@rule(aten.cummax.default, samples=_RUNNING, masked=filled(aten.cummax.default, -INFINITY))
@rule(aten.cummin.default, samples=_RUNNING, masked=filled(aten.cummin.default, INFINITY))
def running_extreme(call: Call, x: LabeledTensor, dim: int) -> tuple[LabeledTensor, LabeledTensor]:
    """As :func:`running`, where nobody asks for the positions."""
    if numbers_used(call):
        return with_indices(call, x, dim)
    out = running(call, x, dim)
    return out, out


@rule(aten.mode.default, samples=[sample(t(3, 5), 1), sample(t(3, 5), 0, True)])
def most_frequent(
    call: Call, x: LabeledTensor, dim: int = -1, keepdim: bool = False
) -> tuple[LabeledTensor, LabeledTensor]:
    """A value and its number along ``dim``, in which nothing can go."""
    left = ended(call, x, [dim], NUMBERS if numbers_used(call) else "counts how often channels have a value").arrays
    out = LabeledTensor(call.out, tuple(array if keepdim else array.at(array.ids.squeeze(dim)) for array in left))
    return out, out


# ---------------------------------------------------------------- diagonals, rotations, cross products


@rule(aten.diagonal.default, samples=[sample(t(2, 3, 3, 4), 0, 1, 2), sample(t(3, 3, 4), 1)])
def diagonal(call: Call, x: LabeledTensor, offset: int = 0, first: int = 0, second: int = 1) -> LabeledTensor:
    """The two dimensions go, and their diagonal is the last one of the result."""
    pair = first % x.ndim, second % x.ndim
    left = ended(call, x, pair, "entries with equal numbers are taken").arrays
    return LabeledTensor(call.out, tuple(array.at(array.ids.squeeze(pair)[..., None]) for array in left))


@rule(
    aten.diag_embed.default,
    samples=[sample(t(4)), sample(t(2, 3, 4)), sample(t(2, 3, 4), 0, 0, -1), sample(t(2, 3, 4), 1)],
)
def diag_embed(call: Call, x: LabeledTensor, offset: int = 0, first: int = -2, second: int = -1) -> LabeledTensor:
    """The last dimension becomes the diagonal of two new ones: its entries have a row and a column each."""
    if offset or any({x.ndim - 1} < array.dims for array in x.arrays):
        x = ended(call, x, [-1], "laid on a diagonal by its number")
    laid = x.arrays, [array for array in x.arrays if array.ids.shape[-1] > 1]
    places = (first, second), (second, first)
    arrays = [
        array.at(np.moveaxis(array.ids[..., None], (-2, -1), to))
        for some, to in zip(laid, places, strict=True)
        for array in some
    ]
    return LabeledTensor(call.out, tuple(arrays))


@rule(aten.rot90.default, samples=[sample(t(3, 4, 5), 1, [1, 2]), sample(t(3, 4), 2, [0, 1]), sample(t(3, 4, 5))])
def rot90(call: Call, x: LabeledTensor, times: int = 1, dims: Sequence[int] = (0, 1)) -> LabeledTensor:
    return LabeledTensor(call.out, ended(call, x, dims, "turned as a plane").arrays)


@rule(aten.linalg_cross.default, samples=[sample(t(4, 3), t(4, 3)), sample(t(3, 4), t(3, 4), dim=0)])
def cross(call: Call, x: LabeledTensor, y: LabeledTensor, *, dim: int = -1) -> LabeledTensor:
    return elementwise(call, *(ended(call, v, [dim], "the three coordinates of a vector") for v in (x, y)))


# ---------------------------------------------------------------- elementwise, though torch does not say so


@rule(aten.log_sigmoid_forward.default, samples=[sample(t(3, 4))])
def log_sigmoid(call: Call, x: LabeledTensor) -> tuple[LabeledTensor, LabeledTensor]:
    rest = call.outs[1]
    return x, LabeledTensor(rest, x.arrays if rest == x.shape else ())


@rule(
    aten.rrelu_with_noise.default,
    aten.rrelu_with_noise_.default,
    samples=[sample(t(3, 4), t(3, 4), 0.1, 0.3, False)],
)
def rrelu(call: Call, x: LabeledTensor, noise: LabeledTensor, *_: Any) -> LabeledTensor:
    return elementwise(call, x, noise)


@rule(aten.threshold_.default, samples=[sample(t(3, 4), 0.1, 2.0)], traits=[Trait.ENTRYWISE])
def threshold_(call: Call, x: LabeledTensor, *_: Any) -> LabeledTensor:
    return x


@rule(aten.bucketize.Tensor, samples=[sample(t(3, 4), torch.tensor([-0.5, 0.5], dtype=torch.float64, device="cpu"))])
def bucketize(call: Call, x: LabeledTensor, borders: LabeledTensor, **_: Any) -> LabeledTensor:
    """In which interval every entry lies."""
    call.freeze(borders, "the intervals are numbered")
    return x
