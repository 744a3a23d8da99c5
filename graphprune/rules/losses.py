"""Losses that a model computes itself: elementwise, then summed or averaged over everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from graphprune.rules.labels import LabeledTensor
from graphprune.rules.pointwise import elementwise
from graphprune.rules.reduction import reduced
from graphprune.rules.registry import Call, rule
from graphprune.rules.samples import sample, t
from graphprune.rules.traits import Trait

aten = torch.ops.aten


NONE, MEAN, SUM = 0, 1, 2


_PAIR = (t(3, 4), t(3, 4))


def averaged(loss: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The mean of a loss over the living entries."""

    def masked(alive: Tensor, x: Tensor, target: Tensor, reduction: int = MEAN, *more: Any) -> Tensor:
        each = loss(x, target, NONE, *more)
        return (each * alive).sum() / alive.expand(each.shape).sum().clamp(min=1)

    return masked


def _summed(x: Any, target: Any, reduction: int = MEAN, *_: Any) -> list[tuple[int, Sequence[int]]]:
    """A loss that is summed is a sum over all dimensions of both."""
    return [
        (place, range(len(given.meta["shape"])) if reduction == SUM else ()) for place, given in enumerate((x, target))
    ]


@rule(
    aten.mse_loss.default,
    samples=[sample(*_PAIR), sample(*_PAIR, NONE), sample(*_PAIR, SUM)],
    masked=averaged(aten.mse_loss.default),
    sums=_summed,
    traits=[Trait.COMPARES],
)
@rule(
    aten.smooth_l1_loss.default,
    samples=[sample(*_PAIR, MEAN, 0.5), sample(*_PAIR, NONE), sample(*_PAIR, SUM)],
    masked=averaged(aten.smooth_l1_loss.default),
    sums=_summed,
    traits=[Trait.COMPARES],
)
@rule(
    aten.huber_loss.default,
    samples=[sample(*_PAIR, MEAN, 0.5), sample(*_PAIR, NONE), sample(*_PAIR, SUM)],
    masked=averaged(aten.huber_loss.default),
    sums=_summed,
    traits=[Trait.COMPARES],
)
def distance(call: Call, x: LabeledTensor, target: LabeledTensor, reduction: int = MEAN, *_: Any) -> LabeledTensor:
    """Dead entries are zero in both: their distance is zero."""
    space = tuple(torch.broadcast_shapes(x.shape, target.shape))
    each = elementwise(Call(call.op, call.labels, (space,)), x, target)
    if reduction == NONE:
        return each
    if reduction == MEAN and each.arrays:
        call.labels.mixes_channels(f"{call.op} is averaged over channels")
    return reduced(call, each, None, keepdim=False)
