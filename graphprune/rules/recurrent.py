"""What recurrent layers consist of below autograd: gates cut from one product, and packed batches.

``nn.LSTM`` and its like are traced as their steps: two products a step and elementwise gates. A hidden unit so comes
out as one label in the rows of every gate, in the recurrent columns and in what reads the hidden state.

The states of several layers and directions are one tensor, of which each layer takes its own: torch asks for equally
many units in each, and they need not be those of the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from graphprune.rules.alignment import align
from graphprune.rules.labels import LabelArray, LabeledTensor
from graphprune.rules.movement import _cut, _split_size, _split_sizes, stack
from graphprune.rules.registry import Call, RuleFunction, rule
from graphprune.rules.samples import sample, t

aten = torch.ops.aten


def _equal_pieces(call: Call, x: LabeledTensor, dim: int, pieces: int) -> None:
    """Every piece keeps equally many entries: torch works their length out by a division."""
    for array in x.touching([dim]):
        along = np.moveaxis(array.ids, dim, 0)
        if along.shape[0] % pieces:
            call.freeze(LabeledTensor(x.shape, (array,)), "cut into pieces of different lengths")
        else:
            call.labels.rectangle(along.reshape(pieces, -1))


@rule(
    aten.unsafe_split.Tensor,
    samples=[sample(t(2, 12, labeled=[1]), 3, 1), sample(t(6, 4), 3, -2), sample(t(5, 4), 2)],
    resize=_split_size,
)
def unsafe_split(call: Call, x: LabeledTensor, size: int, dim: int = 0) -> tuple[LabeledTensor, ...]:
    """The gates of a recurrent cell; torch's own code makes this call, where no size is seen."""
    _equal_pieces(call, x, dim % x.ndim, len(call.outs))
    return _cut(call, x, dim % x.ndim)


@rule(
    aten.unsafe_split_with_sizes.default,
    samples=[sample(t(6, 9), [2, 3, 4], 1)],
    resize=_split_sizes,
)
def unsafe_split_with_sizes(
    call: Call, x: LabeledTensor, sizes: Sequence[int], dim: int = 0
) -> tuple[LabeledTensor, ...]:
    return _cut(call, x, dim % x.ndim)


@rule(aten.glu.default, samples=[sample(t(2, 8, labeled=[1]), 1), sample(t(3, 4, 6))])
def glu(call: Call, x: LabeledTensor, dim: int = -1) -> LabeledTensor:
    """``a * sigmoid(b)`` of the two halves: entry ``i`` of one goes with entry ``i`` of the other."""
    dim %= x.ndim
    pair = Call(call.op, call.labels, (call.out, call.out))
    return LabeledTensor(call.out, tuple(align(call.labels, _cut(pair, x, dim), call.out)))


# ---------------------------------------------------------------- states of several layers and directions


def filled_states(call: Call, *_: Any, **__: Any) -> LabeledTensor:
    """First states of one value, [layers and directions, ..., width]: every layer and direction has its own units."""
    last = len(call.out) - 1
    between = [d for d in range(1, last) if call.out[d] > 1]
    arrays = [LabelArray(call.labels.fresh(call.out, [d], "filled")) for d in between]
    states = LabelArray(call.labels.fresh(call.out, [0, last], "filled"))
    return _with_states(call, LabeledTensor(call.out, tuple(arrays)), states)


def stacked_states(call: Call, tensors: Sequence[LabeledTensor], dim: int = 0) -> LabeledTensor:
    """Last states, [layers and directions, ..., width]: every layer and direction has its own units."""
    width = len(call.out) - 2
    states = [array for x in tensors for array in x.touching([width])]
    if dim or len(states) != len(tensors) or any(array.dims != {width} for array in states):
        return stack(call, tensors, dim)
    others = [LabeledTensor(x.shape, tuple(array for array in x.arrays if array.dims != {width})) for x in tensors]
    ids = np.stack([array.ids for array in states])
    return _with_states(call, stack(call, others), LabelArray(ids))


def _with_states(call: Call, x: LabeledTensor, states: LabelArray) -> LabeledTensor:
    """``x`` with labels that vary over layers and units; every layer keeps as many units as the others."""
    call.labels.rectangle(states.ids.reshape(states.ids.shape[0], -1))
    return LabeledTensor(x.shape, (*x.arrays, states))


STATES: dict[Any, RuleFunction] = {
    **dict.fromkeys((aten.zeros.default, aten.ones.default, aten.full.default), filled_states),
    **dict.fromkeys((aten.new_zeros.default, aten.new_ones.default, aten.new_full.default), filled_states),
    aten.stack.default: stacked_states,
}
"""The rules of calls that make the states of a recurrent layer, [layers and directions, batch, width]."""


# ---------------------------------------------------------------- packed batches


@rule(
    aten._pack_padded_sequence.default,
    samples=[sample(t(4, 3, 5, labeled=[2]), torch.tensor([4, 3, 1], device="cpu"), False)],
)
def pack(
    call: Call, x: LabeledTensor, lengths: LabeledTensor, batch_first: bool
) -> tuple[LabeledTensor, LabeledTensor]:
    """[time, batch, ...] to [steps, ...]: only what lies behind time and batch can go."""
    call.freeze(LabeledTensor(x.shape, tuple(x.touching([0, 1]))), "sequences of a batch are laid one behind another")
    arrays = tuple(array.at(array.ids.squeeze(0)) for array in x.arrays if array.dims.isdisjoint((0, 1)))
    return LabeledTensor(call.outs[0], arrays), LabeledTensor(call.outs[1])


@rule(
    aten._pad_packed_sequence.default,
    samples=[sample(t(8, 5, labeled=[1]), torch.tensor([3, 2, 2, 1], device="cpu"), False, 0.0, 4)],
)
def unpack(call: Call, x: LabeledTensor, *_: Any) -> tuple[LabeledTensor, LabeledTensor]:
    """[steps, ...] to [time, batch, ...]."""
    call.freeze(LabeledTensor(x.shape, tuple(x.touching([0]))), "sequences of a batch are laid one behind another")
    arrays = tuple(array.at(array.ids[None]) for array in x.arrays if 0 not in array.dims)
    return LabeledTensor(call.outs[0], arrays), LabeledTensor(call.outs[1])
