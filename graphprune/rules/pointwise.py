"""Elementwise operations: the operands' channels are the same."""

from __future__ import annotations

from typing import Any

import torch

from graphprune.rules.alignment import align
from graphprune.rules.ending import ended
from graphprune.rules.labels import LabeledTensor
from graphprune.rules.registry import Call, rule
from graphprune.rules.samples import bools, positive, sample, t
from graphprune.rules.traits import Trait

aten = torch.ops.aten

_MASK = torch.tensor([[True], [False]], device="cpu")


@rule(
    aten.add.Tensor,
    aten.add_.Tensor,
    samples=[sample(t(2, 6), t(6)), sample(t(2, 6), t(2, 1), alpha=2)],
    traits=[Trait.ADDS],
)
@rule(aten.sub.Tensor, samples=[sample(t(2, 6, 5), t(6, 1))], traits=[Trait.SUBTRACTS])
@rule(
    aten.mul.Tensor,
    aten.mul_.Tensor,
    samples=[sample(t(2, 3, 4, labeled=[1, 2]), t(4))],
    traits=[Trait.SCALES],
)
@rule(aten.mul.Scalar, samples=[sample(t(2, 6), 0.5)], traits=[Trait.SCALES])
@rule(aten.div.Tensor, aten.div_.Tensor, samples=[sample(t(2, 6), positive(6))], traits=[Trait.DIVIDES])
@rule(aten.floor_divide.default, samples=[sample(t(2, 6), positive(6))])
@rule(aten.floor_divide.Scalar, samples=[sample(t(2, 6), 2.0)])
@rule(aten.div.Scalar, samples=[sample(t(2, 6), 2.0)], traits=[Trait.DIVIDES])
@rule(
    aten.sigmoid.default,
    aten.hardsigmoid.default,
    aten.tanh.default,
    samples=[sample(t(3, 4))],
    traits=[Trait.GATES],
)
@rule(
    aten.sqrt.default,
    aten.sqrt_.default,
    aten.rsqrt.default,
    aten.rsqrt_.default,
    samples=[sample(positive(3, 4))],
    traits=[Trait.POWERS],
)
@rule(aten.pow.Tensor_Scalar, aten.pow_.Scalar, samples=[sample(positive(3, 4), 0.5)], traits=[Trait.POWERS])
@rule(aten.pow.Tensor_Tensor, aten.pow_.Tensor, samples=[sample(positive(3, 4), t(4))], traits=[Trait.POWERS])
@rule(aten.pow.Scalar, samples=[sample(0.5, t(3, 4))], traits=[Trait.POWERS])
@rule(aten.masked_fill_.Scalar, samples=[sample(t(2, 6), _MASK, 3.0)], traits=[Trait.ENTRYWISE, Trait.MASKS])
@rule(aten.masked_fill.Scalar, samples=[sample(t(2, 6), _MASK, 3.0)], traits=[Trait.MASKS])
@rule(aten.masked_fill.Tensor, samples=[sample(t(2, 6), _MASK, t())], traits=[Trait.MASKS])
@rule(aten.where.self, samples=[sample(bools(4, 3), t(4, 3), t(1, 3))], traits=[Trait.MASKS])
@rule(aten.where.ScalarOther, samples=[sample(bools(4, 3), t(4, 3), 3.0)], traits=[Trait.MASKS])
@rule(aten.where.ScalarSelf, samples=[sample(bools(4, 3), 3.0, t(4, 3))], traits=[Trait.MASKS])
def elementwise(call: Call, *args: Any, **kwargs: Any) -> LabeledTensor:
    """The rule of every operation tagged ``torch.Tag.pointwise``; those above are known for more than that."""
    operands = [a for a in (*args, *kwargs.values()) if isinstance(a, LabeledTensor)]
    if len(operands) == 1 and operands[0].shape == call.out:
        return LabeledTensor(call.out, operands[0].arrays)
    return LabeledTensor(call.out, tuple(align(call.labels, operands, call.out)))


def elementwise_results(call: Call, *args: Any, **kwargs: Any) -> LabeledTensor | tuple[LabeledTensor, ...]:
    """:func:`elementwise`; where there are several results (``frexp``), all are alike."""
    result = elementwise(call, *args, **kwargs)
    return result if len(call.outs) == 1 else (result,) * len(call.outs)


POINTWISE_SAMPLES = (
    (aten.maximum.default, sample(t(2, 6, 5), t(6, 1))),
    (aten.exp.default, sample(t(3, 4))),
)
"""Calls that prove the rule for operations that have no record of their own."""


@rule(
    aten.native_dropout.default,
    samples=[sample(t(4, 6), 0.0, False)],
    traits=[Trait.DROPS],
)
def dropout(call: Call, x: LabeledTensor, *_: Any) -> tuple[LabeledTensor, LabeledTensor]:
    return x, x


@rule(
    aten.copy_.default,
    samples=[sample(t(2, 6), t(6))],
)
def copy_(call: Call, target: LabeledTensor, source: LabeledTensor, *_: Any) -> LabeledTensor:
    return elementwise(call, target, source)


_SAME = (Trait.IDENTITY, Trait.MOVES, Trait.KEEPS_INDEXES)


@rule(
    aten.clone.default,
    aten.alias.default,
    aten.lift_fresh.default,
    aten.contiguous.default,
    samples=[sample(t(2, 6))],
    traits=_SAME,
)
@rule(aten.detach.default, samples=[sample(t(2, 6))], traits=[*_SAME, Trait.DETACHES])
@rule(aten._to_copy.default, samples=[sample(t(2, 6))], traits=[Trait.KEEPS_INDEXES])  # of another type: not the same
def identity(call: Call, x: LabeledTensor, *_: Any, **__: Any) -> LabeledTensor:
    return LabeledTensor(x.shape, x.arrays, x.movable)


@rule(
    aten._prelu_kernel.default,
    samples=[sample(t(2, 6), t(1, 6)), sample(t(2, 6), t(1, 1))],
)
def prelu(call: Call, x: LabeledTensor, weight: LabeledTensor) -> LabeledTensor:
    return elementwise(call, x, weight)


@rule(
    aten.hardswish.default,
    aten.hardswish_.default,
    aten.relu6_.default,
    aten.mish_.default,
    samples=[sample(t(2, 6))],
    traits=[Trait.ENTRYWISE],
)
def untagged(call: Call, x: LabeledTensor) -> LabeledTensor:
    """Elementwise, though torch does not say so."""
    return LabeledTensor(x.shape, x.arrays)


@rule(aten.zero_.default, samples=[sample(t(2, 6))], traits=[Trait.ENTRYWISE])
def zero_(call: Call, x: LabeledTensor) -> LabeledTensor:
    return x


@rule(aten.fill_.Scalar, samples=[sample(t(2, 6), 3.0)], traits=[Trait.ENTRYWISE])
@rule(aten.fill_.Tensor, samples=[sample(t(2, 6), torch.tensor(3.0, device="cpu"))], traits=[Trait.ENTRYWISE])
def fill_(call: Call, x: LabeledTensor, value: float | LabeledTensor) -> LabeledTensor:
    return x


@rule(aten.uniform_.default, samples=[sample(t(2, 6), 0.5, 0.5)])
@rule(aten.normal_.default, samples=[sample(t(2, 6), 0.5, 0.0)])
@rule(
    aten.bernoulli_.float,
    aten.bernoulli.p,
    samples=[sample(t(2, 6), 1.0)],
)
def bernoulli(call: Call, x: LabeledTensor, *_: Any, generator: Any = None, **__: Any) -> LabeledTensor:
    """Noise of the shape of ``x``: dropout and jitter written by hand."""
    return drawn_from(call, x, generator)


def drawn_from(call: Call, x: LabeledTensor, generator: Any) -> LabeledTensor:
    """Random numbers; with a generator of their own all of them stay."""
    if generator is None:
        return x
    return ended(
        call, x, range(x.ndim), "drawn by a generator of its own, which gives other numbers where it gives fewer"
    )
