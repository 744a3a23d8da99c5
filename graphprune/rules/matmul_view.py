"""Matrix products and convolutions seen from one operand: which of its entries meet which channels of the other.

Every contraction of a weight with an input is brought into one matmul: blocks (groups of a convolution, matrices of a
batched product) of a product of the input ``x`` [n, blocks, channels, m] with the weight [blocks, channels, outputs],
summed over channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphprune.rules.im2col import Opened, im2col, im2col_transposed
from graphprune.rules.labels import Axis, LabelArray, LabelledTensor, ParameterAxis
from graphprune.utils.arrays import Ids

aten = torch.ops.aten


@dataclass(frozen=True)
class Owners:
    """Labels of the input channels [blocks, channels] of a contraction, as its weight has them.

    Attributes:
        blocks, channels: how many there are.
        contracted: label arrays that broadcast to [blocks, channels].
        rows: for groups of a convolution, the labels of the outputs of each. [blocks, outputs]
    """

    blocks: int
    channels: int
    contracted: tuple[Ids, ...]
    rows: tuple[Ids, ...] = ()


class AxisTable:
    """Which axis a label was made for: parameters' axes have names."""

    def __init__(self, axes: Sequence[Axis]) -> None:
        self.axes = axes
        self._starts = np.array([a.start for a in axes], np.int64)
        self._named = np.array([bool(a.name) for a in axes], bool)

    def number(self, ids: Ids) -> Ids:
        """The number of the axis of each label."""
        found: Ids = np.searchsorted(self._starts, ids, side="right") - 1
        return found

    def named(self, array: LabelArray) -> bool:
        """Are these labels of parameters?"""
        return bool((array.ids > 0).all() and self._named[self.number(array.ids)].all())

    def names(self, ids: Ids) -> set[ParameterAxis]:
        """The parameter axes that labels are of."""
        found = (self.axes[n].name for n in np.unique(self.number(ids)).tolist())
        return {name for name in found if name is not None}


@dataclass(frozen=True)
class MatmulView:
    """One way of seeing a call: the argument ``x`` is multiplied with the argument ``weight``.

    ``owners(labels of the weight, arguments, axes)`` says whose the input channels are, or None where that cannot be
    told; ``open(x, weight, arguments, blocks)`` views both as ``[n, blocks, channels, m]`` and ``[blocks, channels,
    outputs]``; ``result(y, blocks)`` views what the call returns as ``[n, blocks, outputs, m]``.
    """

    x: int
    weight: int
    owners: Callable[[LabelledTensor, Sequence[Any], AxisTable], Owners | None]
    open: Callable[[Tensor, Tensor, Sequence[Any], int], Opened]
    result: Callable[[Tensor, int], Tensor] | None = None
    bias: int | None = None

    def intercept(self, args: Sequence[Any]) -> bool:
        """Does the call add a bias, which could make up for a removed input's mean?"""
        return self.bias is not None and len(args) > self.bias and args[self.bias] is not None


# ---------------------------------------------------------------- matrix products


def _matrix_owners(dim: int) -> Callable[[LabelledTensor, Sequence[Any], AxisTable], Owners | None]:
    """A weight of one, two or three dimensions of which ``dim`` (counted from the end) is contracted."""

    def owners(weight: LabelledTensor, args: Sequence[Any], table: AxisTable) -> Owners | None:
        contracted = weight.ndim + dim
        batch = frozenset((0,)) if weight.ndim == 3 else frozenset[int]()
        arrays = weight.touching([contracted])
        if not arrays or not all(array.dims <= batch | {contracted} and table.named(array) for array in arrays):
            return None
        by_batch = [array for array in weight.arrays if array.dims == batch and table.named(array)]
        own = bool(batch) and (bool(by_batch) or any(0 in array.dims for array in arrays))
        blocks, channels = weight.shape[0] if own else 1, weight.shape[contracted]
        ids = [array.ids.reshape(-1, channels) for array in arrays]
        ids += [array.ids.reshape(-1, 1) for array in by_batch]
        return Owners(blocks, channels, tuple(ids))

    return owners


def _opened(x: Tensor, weight: Tensor, blocks: int) -> Opened:
    """``x`` [(batch,) n, channels] and ``weight`` [(batch,) channels, outputs]; equal matrices become one block."""
    channels = x.shape[-1]
    if blocks == 1:
        return x.reshape(-1, 1, channels, 1), weight.reshape(-1, *weight.shape[-2:])[:1]
    return x.transpose(0, 1).unsqueeze(-1), weight


def _rows(y: Tensor, blocks: int) -> Tensor:
    """A product [(batch,) n, outputs]."""
    return y.reshape(-1, 1, y.shape[-1], 1) if blocks == 1 else y.transpose(0, 1).unsqueeze(-1)


def _right(x: int, weight: int, bias: int | None = None) -> MatmulView:
    """The weight is the right factor, [(batch,) channels, outputs]."""
    return MatmulView(x, weight, _matrix_owners(-2), lambda x, w, _, blocks: _opened(x, w, blocks), _rows, bias)


def _left(x: int, weight: int) -> MatmulView:
    """The weight is the left factor, [(batch,) outputs, channels]."""
    return MatmulView(
        x,
        weight,
        _matrix_owners(-1),
        lambda x, w, _, blocks: _opened(x.mT, w.mT, blocks),
        lambda y, blocks: _rows(y.mT, blocks),
    )


def _open_linear(x: Tensor, weight: Tensor, args: Sequence[Any], blocks: int) -> Opened:
    return _opened(x, weight.mT, blocks)


def _open_matrix_of_vector(x: Tensor, weight: Tensor, args: Sequence[Any], blocks: int) -> Opened:
    return _opened(x[None], weight.mT, blocks)


def _open_vector(x: Tensor, weight: Tensor, args: Sequence[Any], blocks: int) -> Opened:
    return _opened(x, weight[:, None], blocks)


def _experts_owners(weight: LabelledTensor, args: Sequence[Any], table: AxisTable) -> Owners | None:
    """One matrix for each part of the rows, [parts, channels, outputs]; channels that all of them share."""
    arrays = weight.touching([1]) if weight.ndim == 3 else []
    if not arrays or not all(array.dims == {1} and table.named(array) for array in arrays):
        return None
    return Owners(1, weight.shape[1], tuple(array.ids.reshape(1, -1) for array in arrays))


def _open_experts(x: Tensor, weight: Tensor, args: Sequence[Any], blocks: int) -> Opened:
    """All parts as one product: each is taken to have the moments of all rows, an approximation."""
    return x.reshape(-1, 1, x.shape[-1], 1), weight.transpose(0, 1).flatten(1).unsqueeze(0)


# ---------------------------------------------------------------- convolutions


def _convolution_owners(weight: LabelledTensor, args: Sequence[Any], table: AxisTable) -> Owners | None:
    """A kernel [outputs, channels of a group, ...], or [channels, outputs of a group, ...] if transposed."""
    transposed, groups = args[6], int(args[8])
    along = {d: [array for array in weight.arrays if d in array.dims] for d in (0, 1)}
    wanted = along[0] if transposed else along[1] + (along[0] if groups > 1 else [])
    if not wanted or not all(len(array.dims) == 1 and table.named(array) for array in wanted):
        return None
    if transposed:
        channels = weight.shape[0] // groups
        return Owners(groups, channels, tuple(array.ids.reshape(groups, channels) for array in along[0]))
    contracted = tuple(array.ids.reshape(1, -1) for array in along[1])
    rows = tuple(array.ids.reshape(groups, -1) for array in along[0]) if groups > 1 else ()
    return Owners(groups, weight.shape[1], contracted, rows)


def _open_convolution(x: Tensor, weight: Tensor, args: Sequence[Any], blocks: int) -> Opened:
    """Channels over batch and space; all taps of a kernel see the same channel."""
    opened = x.reshape(x.shape[0], blocks, x.shape[1] // blocks, -1)
    if args[6]:
        return opened, weight.reshape(blocks, opened.shape[2], -1)
    by_block = weight.reshape(blocks, weight.shape[0] // blocks, opened.shape[2], -1)
    return opened, by_block.transpose(1, 2).flatten(2)


def _positions(y: Tensor, blocks: int) -> Tensor:
    """The result of a convolution, [n, outputs, ...]."""
    return y.reshape(y.shape[0], blocks, y.shape[1] // blocks, -1)


_CONVOLUTION = MatmulView(0, 1, _convolution_owners, _open_convolution, _positions, bias=2)


def exact_view(matmul: MatmulView, args: Sequence[Any]) -> MatmulView:
    """The matmul whose product is what the call returns: of a convolution, the one with a channel for every tap."""
    if matmul is not _CONVOLUTION:
        return matmul
    return replace(matmul, open=im2col_transposed if args[6] else im2col)


def by_kernel_position(
    matmul: MatmulView, owners: Owners, weight: Tensor, args: Sequence[Any]
) -> tuple[MatmulView, Owners]:
    """The exact matmul of a convolution, with the labels of a channel for every tap. Other forms are as they are."""
    if matmul is not _CONVOLUTION:
        return matmul, owners
    taps = prod(weight.shape[2:])
    contracted = tuple(np.repeat(ids, taps, axis=1) for ids in owners.contracted)
    return exact_view(matmul, args), replace(owners, channels=owners.channels * taps, contracted=contracted)


MATMUL_VIEWS: dict[Any, tuple[MatmulView, ...]] = {
    aten.mm.default: (_right(0, 1), _left(1, 0)),
    aten.addmm.default: (_right(1, 2, bias=0), _left(2, 1)),
    aten.bmm.default: (_right(0, 1), _left(1, 0)),
    aten.baddbmm.default: (_right(1, 2), _left(2, 1)),
    aten.mv.default: (
        MatmulView(1, 0, _matrix_owners(-1), _open_matrix_of_vector, lambda y, blocks: _rows(y[None], blocks)),
        MatmulView(0, 1, _matrix_owners(-1), _open_vector, lambda y, blocks: _rows(y[:, None], blocks)),
    ),
    aten.linear.default: (MatmulView(0, 1, _matrix_owners(-1), _open_linear, _rows, bias=2),),
    aten._grouped_mm.default: (MatmulView(0, 1, _experts_owners, _open_experts),),
    aten.convolution.default: (_CONVOLUTION,),
}
"""The ways of seeing each operation, the usual one first."""
