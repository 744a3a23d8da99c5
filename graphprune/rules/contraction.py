"""Matrix products and look-ups: contracted channels of both sides are the same, the others pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphprune.labels import Lab, Labelled, Labels, Shape, align, reduce_dims
from graphprune.rules.registry import Call, ints, rule, sample, t

aten = torch.ops.aten


def placed(x: Labelled, dims: Sequence[int], rank: int) -> Labelled:
    """``x`` seen in a space of ``rank`` dimensions: its dimension ``i`` is ``dims[i]`` there, the others are 1."""

    def place(shape: Shape) -> Shape:
        sizes = [1] * rank
        for d, n in zip(dims, shape, strict=True):
            sizes[d] = n
        return tuple(sizes)

    order = sorted(range(x.ndim), key=lambda i: dims[i])
    labs = (lab.at(lab.ids.transpose(order).reshape(place(lab.ids.shape))) for lab in x.labs)
    return Labelled(place(x.shape), tuple(labs), x.movable)


def contract(labels: Labels, a: Labelled, b: Labelled, gone: Sequence[int]) -> Labelled:
    """Multiply two operands placed in one space and sum over the dimensions ``gone``, which are dropped."""
    space = tuple(max(m, n) for m, n in zip(a.shape, b.shape, strict=True))
    product = Labelled(space, tuple(align(labels, (a, b), space)))
    labs = reduce_dims(labels, product, gone)
    keep = [d for d in range(len(space)) if d not in gone]
    return Labelled(tuple(space[d] for d in keep), tuple(_drop(lab, gone) for lab in labs))


def _drop(lab: Lab, dims: Sequence[int]) -> Lab:
    return lab.at(lab.ids.squeeze(tuple(dims)))


@rule(aten.mm.default, samples=[sample(t(3, 4), t(4, 5))])
def mm(call: Call, a: Labelled, b: Labelled) -> Labelled:
    return contract(call.labels, placed(a, (0, 1), 3), placed(b, (1, 2), 3), [1])


@rule(aten.addmm.default, samples=[sample(t(5), t(3, 4), t(4, 5)), sample(t(3, 5), t(3, 4), t(4, 5))])
def addmm(call: Call, bias: Labelled, a: Labelled, b: Labelled, **_: Any) -> Labelled:
    product = mm(call, a, b)
    return Labelled(call.out, tuple(align(call.labels, (product, bias), call.out)))


@rule(aten.bmm.default, samples=[sample(t(2, 3, 4), t(2, 4, 5)), sample(t(4, 3, 2, labelled=[0]), t(4, 2, 3))])
def bmm(call: Call, a: Labelled, b: Labelled) -> Labelled:
    return contract(call.labels, placed(a, (0, 1, 2), 4), placed(b, (0, 2, 3), 4), [2])


@rule(aten.baddbmm.default, samples=[sample(t(2, 3, 5), t(2, 3, 4), t(2, 4, 5))])
def baddbmm(call: Call, bias: Labelled, a: Labelled, b: Labelled, **_: Any) -> Labelled:
    product = bmm(call, a, b)
    return Labelled(call.out, tuple(align(call.labels, (product, bias), call.out)))


@rule(aten.mv.default, samples=[sample(t(3, 4), t(4))])
def mv(call: Call, a: Labelled, b: Labelled) -> Labelled:
    return contract(call.labels, placed(a, (0, 1), 2), placed(b, (1,), 2), [1])


@rule(aten.dot.default, samples=[sample(t(4), t(4))])
def dot(call: Call, a: Labelled, b: Labelled) -> Labelled:
    return contract(call.labels, a, b, [0])


@rule(aten.linear.default, samples=[sample(t(2, 3, 4), t(5, 4), t(5)), sample(t(3, 4), t(5, 4))])
def linear(call: Call, x: Labelled, weight: Labelled, bias: Labelled | None = None) -> Labelled:
    rank = x.ndim + 1
    product = contract(
        call.labels, placed(x, range(x.ndim), rank), placed(weight, (rank - 1, rank - 2), rank), [rank - 2]
    )
    operands = (product,) if bias is None else (product, bias)
    return Labelled(call.out, tuple(align(call.labels, operands, call.out)))


@rule(aten.embedding.default, samples=[sample(t(7, 4), ints(2, 3, below=7))])
def embedding(call: Call, weight: Labelled, indices: Labelled, *_: Any) -> Labelled:
    call.freeze(Labelled(weight.shape, tuple(weight.touching([0]))), "rows are looked up by number")
    rank = len(call.out)
    labs = [lab.at(lab.ids.reshape((1,) * (rank - 1) + (-1,))) for lab in weight.labs if lab.dims == {1}]
    return Labelled(call.out, tuple(labs))
