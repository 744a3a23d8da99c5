"""Fourier transforms and complex numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from graphprune.rules.ending import ended
from graphprune.rules.labels import NOT_A_CHANNEL, LabeledTensor
from graphprune.rules.movement import selected
from graphprune.rules.pointwise import elementwise
from graphprune.rules.registry import Call, rule
from graphprune.rules.samples import complexes, sample, t

aten = torch.ops.aten


# ---------------------------------------------------------------- Fourier transforms


def transformed(call: Call, x: LabeledTensor, dims: Sequence[int], *_: Any, **__: Any) -> LabeledTensor:
    """Every frequency mixes all entries of the dimensions ``dims``; the others pass."""
    return LabeledTensor(call.out, ended(call, x, dims, "transforms over this dimension").arrays)


rule(aten._fft_r2c.default, samples=[sample(t(3, 4, 6), [2], 0, True), sample(t(4, 6), [0], 2, False)])(transformed)
rule(aten._fft_c2c.default, samples=[sample(complexes(3, 4, 6), [0, 2], 0, True)])(transformed)
rule(aten._fft_c2r.default, samples=[sample(complexes(3, 4, 4), [2], 2, 6)])(transformed)


# ---------------------------------------------------------------- complex numbers


@rule(aten.view_as_real.default, samples=[sample(complexes(3, 4))])
def view_as_real(call: Call, x: LabeledTensor) -> LabeledTensor:
    """The real and the imaginary part lie in a new last dimension; both live or neither."""
    return x.moved(call.out, (array.at(array.ids[..., None]) for array in x.arrays))


@rule(
    aten.view_as_complex.default,
    samples=[sample(t(3, 4, 2, labeled=[0, 1])), sample(t(3, 2, labeled=[0, 1])), sample(t(3, 4, 2))],
)
def view_as_complex(call: Call, x: LabeledTensor) -> LabeledTensor:
    """Both parts of a number live or neither; what a last dimension of two was seen in keeps its pairs."""
    last = x.ndim - 1
    call.labels.fix([array for array in x.arrays if array.dims == {last}], NOT_A_CHANNEL)
    return elementwise(call, *(selected(call, x, last, part) for part in (0, 1)))


@rule(
    aten.complex.default,
    aten.polar.default,
    samples=[sample(t(3, 4), t(3, 4)), sample(t(2, 3, 4), t(4))],
)
def from_two(call: Call, x: LabeledTensor, y: LabeledTensor) -> LabeledTensor:
    return elementwise(call, x, y)


@rule(aten._conj.default, aten._neg_view.default, samples=[sample(complexes(3, 4))])
def conjugate(call: Call, x: LabeledTensor) -> LabeledTensor:
    return x
