"""Reductions: the reduced dimensions' channels end here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphprune.rules.alignment import reduce_dims, tie
from graphprune.rules.ending import ended
from graphprune.rules.labels import LabeledTensor
from graphprune.rules.registry import Call, rule
from graphprune.rules.samples import sample, t
from graphprune.rules.traits import Trait

aten = torch.ops.aten


def reduced(call: Call, x: LabeledTensor, dims: Sequence[int] | None, keepdim: bool) -> LabeledTensor:
    """``x`` without the labels of ``dims`` (None: all); where there are no entries (``x[:, :0]``), no label is left."""
    gone = [d % x.ndim for d in dims] if dims else list(range(x.ndim))
    arrays = [array for array in reduce_dims(call.labels, x, gone) if array.ids.size]
    if keepdim:
        return LabeledTensor(call.out, tuple(arrays))
    return LabeledTensor(call.out, tuple(array.at(array.ids.squeeze(tuple(gone))) for array in arrays))


def summed_dims(x: Any, dims: Any = None, *_: Any, **__: Any) -> list[tuple[int, Sequence[int]]]:
    """A sum over ``dims``, or over all dimensions."""
    return [(0, [dims] if isinstance(dims, int) else dims or range(len(x.meta["shape"])))]


def _mixing(call: Call, x: LabeledTensor, dims: Sequence[int] | None) -> None:
    if met := x.touching(dims or range(x.ndim)):
        call.labels.mixes_channels(f"{call.op} is taken over channels", met)


@rule(
    aten.sum.dim_IntList,
    samples=[sample(t(2, 3, 4), [1]), sample(t(2, 3, 4), [-1], True), sample(t(2, 3), None)],
    sums=summed_dims,
    traits=[Trait.STATISTIC],
)
@rule(
    aten.nansum.default,
    samples=[sample(t(2, 3, 4), [1]), sample(t(2, 3, 4), [-1], True), sample(t(2, 3))],
    sums=summed_dims,
    traits=[Trait.STATISTIC],
)
def sum_(
    call: Call, x: LabeledTensor, dims: Sequence[int] | None = None, keepdim: bool = False, **_: Any
) -> LabeledTensor:
    """Zeros add nothing: exact."""
    return reduced(call, x, dims, keepdim)


@rule(
    aten.linalg_vector_norm.default,
    samples=[
        sample(t(2, 3, 4), 2, [1]),
        sample(t(2, 3, 4), 1, [-1], True),
        sample(t(3, 4, labeled=[0]), -1, [1]),
    ],
    sums=lambda x, order=2, dims=None, *_, **__: summed_dims(x, dims),
    traits=[Trait.STATISTIC],
)
def vector_norm(
    call: Call,
    x: LabeledTensor,
    order: float = 2,
    dims: Sequence[int] | None = None,
    keepdim: bool = False,
    **_: Any,
) -> LabeledTensor:
    """Zeros add nothing, unless the order is negative."""
    if order < 0:
        call.freeze(LabeledTensor(x.shape, tuple(x.touching(dims or range(x.ndim)))), "a norm of negative order")
    return reduced(call, x, dims, keepdim)


@rule(
    aten.sum.default,
    samples=[sample(t(2, 3))],
    sums=lambda x, **_: summed_dims(x),
    traits=[Trait.STATISTIC],
)
def sum_all(call: Call, x: LabeledTensor, **_: Any) -> LabeledTensor:
    return reduced(call, x, None, False)


def masked_mean(alive: Tensor, x: Tensor, dims: Sequence[int] | None = None, keepdim: bool = False, **_: Any) -> Tensor:
    dims = list(dims) if dims else list(range(x.ndim))
    return x.sum(dims, keepdim) / alive.expand(x.shape).to(x.dtype).sum(dims, keepdim).clamp(min=1)


@rule(
    aten.mean.dim,
    samples=[
        sample(t(2, 3, 4), [1]),
        sample(t(2, 3, 4), [-1], True),
        sample(t(2, 3, 4, 4, labeled=[1]), [2, 3]),
    ],
    masked=masked_mean,
    traits=[Trait.STATISTIC],
)
def mean(
    call: Call, x: LabeledTensor, dims: Sequence[int] | None = None, keepdim: bool = False, **_: Any
) -> LabeledTensor:
    _mixing(call, x, dims)
    return reduced(call, x, dims, keepdim)


@rule(
    aten.mean.default,
    samples=[sample(t(2, 3))],
    masked=lambda alive, x, **_: masked_mean(alive, x),
    traits=[Trait.STATISTIC],
)
def mean_all(call: Call, x: LabeledTensor, **_: Any) -> LabeledTensor:
    _mixing(call, x, None)
    return reduced(call, x, None, False)


def masked_variance(
    alive: Tensor, x: Tensor, dims: Sequence[int] | None = None, correction: float = 1, keepdim: bool = False
) -> Tensor:
    dims = list(dims) if dims else list(range(x.ndim))
    weight = alive.expand(x.shape).to(x.dtype)
    count = weight.sum(dims, keepdim=True)
    centered = (x - (x * weight).sum(dims, keepdim=True) / count) * weight
    return centered.square().sum(dims, keepdim) / (weight.sum(dims, keepdim) - correction).clamp(min=0)


def _keep_several(call: Call, x: LabeledTensor, dims: Sequence[int] | None, correction: Any) -> None:
    """More entries must be left than the correction subtracts: the unbiased variance of one is not a number."""
    taken = {dim % x.ndim for dim in dims or range(x.ndim)}
    for array in x.touching(taken):
        beside = prod(x.shape[dim] for dim in taken - array.dims)
        least = int((1 if correction is None else correction) // max(beside, 1)) + 1
        inner = sorted(taken & array.dims)
        rows = np.moveaxis(array.ids, inner, range(-len(inner), 0)).reshape(-1, prod(x.shape[dim] for dim in inner))
        if 1 < least <= rows.shape[1]:
            why = f"{call.op} needs {least} of them: of fewer it is not a number"
            call.labels.at_least(np.unique(rows, axis=0), least, why)


@rule(
    aten.var.correction,
    samples=[sample(t(2, 6, 4), [1], correction=0, keepdim=True), sample(t(3, 5, 4, labeled=[0]), [1, 2])],
    masked=masked_variance,
    traits=[Trait.STATISTIC],
)
def variance(
    call: Call, x: LabeledTensor, dims: Sequence[int] | None = None, correction: Any = 1, keepdim: bool = False
) -> LabeledTensor:
    _mixing(call, x, dims)
    _keep_several(call, x, dims, correction)
    return reduced(call, x, dims, keepdim)


@rule(
    aten.var_mean.correction,
    samples=[sample(t(2, 6, 4), [1], correction=0, keepdim=True)],
    masked=lambda alive, x, dims=None, correction=1, keepdim=False: (
        masked_variance(alive, x, dims, correction, keepdim),
        masked_mean(alive, x, dims, keepdim),
    ),
    traits=[Trait.STATISTIC],
)
def variance_and_mean(
    call: Call, x: LabeledTensor, dims: Sequence[int] | None = None, correction: Any = 1, keepdim: bool = False
) -> tuple[LabeledTensor, LabeledTensor]:
    _mixing(call, x, dims)
    _keep_several(call, x, dims, correction)
    out = reduced(call, x, dims, keepdim)
    return out, out


def _masked_extreme(function: Callable[..., Tensor], fill: float) -> Callable[..., Tensor]:
    def masked(alive: Tensor, x: Tensor, dims: Sequence[int] = (), keepdim: bool = False) -> Tensor:
        return function(x.masked_fill(~alive, fill), dims, keepdim)

    return masked


@rule(aten.amax.default, samples=[sample(t(3, 4), [1])], masked=_masked_extreme(torch.amax, float("-inf")))
def amax(call: Call, x: LabeledTensor, dims: Sequence[int] = (), keepdim: bool = False) -> LabeledTensor:
    _mixing(call, x, dims)
    return reduced(call, x, dims, keepdim)


@rule(aten.amin.default, samples=[sample(t(3, 4), [1])], masked=_masked_extreme(torch.amin, float("inf")))
def amin(call: Call, x: LabeledTensor, dims: Sequence[int] = (), keepdim: bool = False) -> LabeledTensor:
    _mixing(call, x, dims)
    return reduced(call, x, dims, keepdim)


NUMBERS = "returns the number of a channel"


def numbers_used(call: Call) -> bool:
    """May the program look at the second result, which says of which channel each value is?"""
    return call.used is None or 1 in call.used


@rule(
    aten.sort.default,
    samples=[sample(t(3, 4, 2), 1), sample(t(3, 4), -1)],
    traits=[Trait.KNOWS_INDEXES],
)
@rule(
    aten.sort.stable,
    samples=[sample(t(3, 4, 2), stable=True, dim=1), sample(t(3, 4), stable=True)],
    traits=[Trait.KNOWS_INDEXES],
)
def with_indices(
    call: Call, x: LabeledTensor, dim: int = -1, *args: Any, **_: Any
) -> tuple[LabeledTensor, LabeledTensor]:
    """Positions are returned: channels of that dimension keep theirs. In order of their values they have others."""
    text = NUMBERS if numbers_used(call) else "puts channels in the order of their values"
    left = ended(call, x, [dim], text).arrays
    if len(call.out) < x.ndim:
        left = tuple(array.at(array.ids.squeeze(dim)) for array in left)
    return LabeledTensor(call.out, left, indexed=x.indexed), LabeledTensor(call.out, left)


def _masked_along(function: Callable[..., Any], fill: float) -> Callable[..., Any]:
    def masked(alive: Tensor, x: Tensor, dim: int, keepdim: bool = False) -> Any:
        return function(x.masked_fill(~alive, fill), dim, keepdim)

    return masked


def masked_median(alive: Tensor, x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The median of what lives, which is not a number where one of these is not."""
    values, numbers = x.masked_fill(~alive, float("nan")).nanmedian(dim, keepdim)
    return values.masked_fill((x.isnan() & alive).any(dim, keepdim), float("nan")), numbers


ALONG = (sample(t(3, 4, 2), 1), sample(t(3, 4), -1), sample(t(3, 4, 2), 1, True).looking_at(0))


@rule(aten.max.dim, samples=ALONG, masked=_masked_along(torch.max, float("-inf")))
@rule(aten.min.dim, samples=ALONG, masked=_masked_along(torch.min, float("inf")))
@rule(aten.nanmedian.dim, samples=ALONG, masked=_masked_along(torch.nanmedian, float("nan")))
@rule(aten.median.dim, samples=ALONG, masked=masked_median)
def extreme_along(call: Call, x: LabeledTensor, dim: int, keepdim: bool = False) -> tuple[LabeledTensor, LabeledTensor]:
    """Where nobody asks for the positions, channels can be among those that are compared."""
    if numbers_used(call):
        return with_indices(call, x, dim)
    _mixing(call, x, [dim])
    out = reduced(call, x, [dim], keepdim)
    return out, out


@rule(aten.cumsum.default, samples=[sample(t(3, 4), 1)], sums=summed_dims)
def cumsum(call: Call, x: LabeledTensor, dim: int, **_: Any) -> LabeledTensor:
    """A removed entry adds zero to those behind it: exact, as long as they stay behind it."""
    tie(call.labels, x, [dim])
    for array in x.touching([dim]):
        call.labels.in_order(array.ids)
    return x
