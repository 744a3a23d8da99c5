"""Convolutions of any number of dimensions, grouped, depthwise, transposed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from graphprune.labels import NOT_A_CHANNEL, Lab, Labelled, align
from graphprune.rules.contraction import contract, placed
from graphprune.rules.movement import reshape
from graphprune.rules.registry import Args, Call, Slim, rule, sample, t

aten = torch.ops.aten


def only(x: Labelled, dims: Iterable[int]) -> Labelled:
    """The labels of ``x`` that vary within ``dims`` alone, with the other dimensions taken away."""
    kept = list(dims)
    gone = tuple(d for d in range(x.ndim) if d not in kept)
    labs = tuple(lab.at(lab.ids.squeeze(gone)) for lab in x.labs if lab.dims <= set(kept))
    return Labelled(tuple(x.shape[d] for d in kept), labs, x.movable)


def channels(call: Call, x: Labelled, dim: int, text: str) -> Labelled:
    """The channels of ``x`` as a vector; labels in any other dimension but the first are fixed."""
    mixed = tuple(lab for lab in x.labs if lab.dims == {0, dim})
    call.freeze(Labelled(x.shape, mixed), "channels lie in the batch dimension too")
    call.freeze(Labelled(x.shape, tuple(lab for lab in x.labs if lab.dims - {0, dim})), text)
    return only(x, [dim])


def beside(x: Labelled, dim: int, rank: int) -> tuple[Lab, ...]:
    """The labels of a vector laid along ``dim`` of a tensor of ``rank``."""
    shape = tuple(-1 if d == dim else 1 for d in range(rank))
    return tuple(lab.at(lab.ids.reshape(shape)) for lab in x.labs)


def _groups(slim: Slim, args: Args) -> Args:
    return *args[:8], slim.counts.get("groups", 1)


_SPACE = "space that a kernel slides over"


@rule(
    aten.convolution.default,
    samples=[
        sample(t(2, 6, 5, 5, labelled=[1]), t(4, 6, 3, 3), t(4), [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
        sample(t(2, 6, 5, labelled=[1]), t(6, 1, 3), None, [1], [1], [1], False, [0], 6),
        sample(t(2, 4, 5, labelled=[1]), t(8, 1, 3), t(8), [1], [1], [1], False, [0], 4),
        sample(t(2, 6, 5, labelled=[1]), t(9, 2, 3), t(9), [1], [1], [1], False, [0], 3),
        sample(t(3, 6, 5, labelled=[0, 1]), t(4, 6, 3), t(4), [1], [1], [1], False, [0], 1),
        sample(t(3, 6, 5), t(6, 2, 3), t(6), [1], [1], [1], False, [0], 3),
        sample(t(2, 6, 5, labelled=[1]), t(6, 4, 3), t(4), [2], [1], [1], True, [0], 1),
        sample(t(2, 6, 5, labelled=[1]), t(6, 2, 3), t(4), [2], [1], [1], True, [0], 2),
    ],
    resize=_groups,
)
def convolution(
    call: Call,
    x: Labelled,
    weight: Labelled,
    bias: Labelled | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> Labelled:
    vector = channels(call, x, 1, _SPACE)
    kernel = _kernel(call, weight)
    out = _transposed(call, vector, kernel, groups) if transposed else _forward(call, vector, kernel, groups)
    if bias is not None:
        out = Labelled(out.shape, tuple(align(call.labels, (out, bias), out.shape)))
    batch = [lab for lab in x.labs if lab.dims == {0}]
    return Labelled(call.out, (*beside(out, 1, len(call.out)), *batch))


def _kernel(call: Call, weight: Labelled) -> Labelled:
    call.labels.fix([lab for lab in weight.labs if lab.dims - {0, 1}], NOT_A_CHANNEL)
    return only(weight, [0, 1])


def _forward(call: Call, x: Labelled, kernel: Labelled, groups: int) -> Labelled:
    """``x`` is [I], ``kernel`` [O, I / groups]."""
    if groups == 1:
        return contract(call.labels, placed(x, (1,), 2), kernel, [1])
    o, i = kernel.shape
    labels = call.labels
    parts = placed(reshape(labels, x, (groups, i)), (0, 2), 3)
    return _by_group(call, parts, reshape(labels, kernel, (groups, o // groups, i)), (o,))


def _transposed(call: Call, x: Labelled, kernel: Labelled, groups: int) -> Labelled:
    """``x`` is [I], ``kernel`` [I, O / groups]."""
    if groups == 1:
        return contract(call.labels, placed(x, (0,), 2), kernel, [0])
    i, o = kernel.shape
    labels = call.labels
    parts = placed(reshape(labels, x, (groups, i // groups)), (0, 2), 3)
    weight = placed(reshape(labels, kernel, (groups, i // groups, o)), (0, 2, 1), 3)
    return _by_group(call, parts, weight, (groups * o,))


def _by_group(call: Call, x: Labelled, weight: Labelled, out: tuple[int]) -> Labelled:
    """``x`` is [groups, 1, i], ``weight`` [groups, o, i]; the result is [groups * o]."""
    product = contract(call.labels, x, weight, [2])
    rows = [lab for lab in product.labs if lab.dims == {0}]
    call.count("groups", only(Labelled(product.shape, tuple(rows)), [0]))
    for lab in product.labs:
        if len(lab.dims) == 2:
            call.labels.rectangle(lab.ids)
    return reshape(call.labels, product, out)
