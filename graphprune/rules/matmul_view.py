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
from torch import Tensor

from graphprune.rules.im2col import Opened, open_convolution, open_transposed_convolution
from graphprune.rules.labels import Axis, LabelArray, LabeledTensor, ParameterAxis
from graphprune.utils.arrays import Ids


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
class SlidingKernel:
    """At which arguments a convolution says whether it is ``transposed``, and how many ``groups`` it has."""

    transposed: int
    groups: int


@dataclass(frozen=True)
class MatmulView:
    """One way of seeing a call: the argument ``x`` is multiplied with the argument ``weight``.

    ``owners(labels of the weight, arguments, axes)`` says whose the input channels are, or None where that cannot be
    told; ``open(x, weight, arguments, blocks)`` views both as ``[n, blocks, channels, m]`` and ``[blocks, channels,
    outputs]``; ``result(y, blocks)`` views what the call returns as ``[n, blocks, outputs, m]``. ``kernel`` is that of
    a convolution, whose weight has positions in its dimensions from 2 on, and whose outputs lie along dimension 1.
    ``summed`` is the dimension of ``x`` that is summed over, of a matrix product.
    """

    x: int
    weight: int
    owners: Callable[[LabeledTensor, Sequence[Any], AxisTable], Owners | None]
    open: Callable[[Tensor, Tensor, Sequence[Any], int], Opened]
    result: Callable[[Tensor, int], Tensor] | None = None
    bias: int | None = None
    kernel: SlidingKernel | None = None
    summed: int = -1

    def intercept(self, args: Sequence[Any]) -> bool:
        """Does the call add a bias, which could make up for a removed input's mean?"""
        return self.bias is not None and len(args) > self.bias and args[self.bias] is not None

    @property
    def channel_dim(self) -> int:
        """The dimension of the input that the channels lie along."""
        return self.summed if self.kernel is None else 1

    def transposed(self, args: Sequence[Any]) -> bool:
        """Is the call a transposed convolution?"""
        return self.kernel is not None and bool(args[self.kernel.transposed])

    def blocks(self, args: Sequence[Any]) -> int:
        """The groups of a convolution, or the different matrices of a batched product."""
        if self.kernel is not None:
            return int(args[self.kernel.groups])
        weight: Tensor = args[self.weight]
        return weight.shape[0] if weight.ndim == 3 and weight.stride(0) else 1

    def positions(self, weight_shape: Sequence[int]) -> int:
        """How many entries of the input each output sees of one channel."""
        return prod(weight_shape[2:]) if self.kernel is not None else 1

    def exact(self, args: Sequence[Any]) -> MatmulView:
        """The view whose product is what the call returns: of a convolution, with a channel for every position."""
        if self.kernel is None:
            return self
        return replace(self, open=open_transposed_convolution if self.transposed(args) else open_convolution)

    def by_kernel_position(self, owners: Owners, weight: Tensor, args: Sequence[Any]) -> tuple[MatmulView, Owners]:
        """The exact view, with the labels of its channels."""
        if self.kernel is None:
            return self, owners
        positions = self.positions(weight.shape)
        contracted = tuple(np.repeat(ids, positions, axis=1) for ids in owners.contracted)
        return self.exact(args), replace(owners, channels=owners.channels * positions, contracted=contracted)


# ---------------------------------------------------------------- matrix products


def _matrix_owners(dim: int) -> Callable[[LabeledTensor, Sequence[Any], AxisTable], Owners | None]:
    """A weight of one, two or three dimensions of which ``dim`` (counted from the end) is contracted."""

    def owners(weight: LabeledTensor, args: Sequence[Any], table: AxisTable) -> Owners | None:
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


def right_factor(x: int, weight: int, bias: int | None = None) -> MatmulView:
    """The weight is the right factor of a matrix product, [(batch,) channels, outputs]."""
    return MatmulView(x, weight, _matrix_owners(-2), lambda x, w, _, blocks: _opened(x, w, blocks), _rows, bias)


def left_factor(x: int, weight: int) -> MatmulView:
    """The weight is the left factor of a matrix product, [(batch,) outputs, channels]."""
    return MatmulView(
        x,
        weight,
        _matrix_owners(-1),
        lambda x, w, _, blocks: _opened(x.mT, w.mT, blocks),
        lambda y, blocks: _rows(y.mT, blocks),
        summed=-2,
    )


def linear_rows(x: int, weight: int, bias: int | None = None) -> MatmulView:
    """The weight has a row for each output, [outputs, channels], and the channels of ``x`` are its last dimension."""
    return MatmulView(x, weight, _matrix_owners(-1), lambda x, w, _, blocks: _opened(x, w.mT, blocks), _rows, bias)


def matrix_of_vector(x: int, weight: int) -> MatmulView:
    """The weight is a matrix [outputs, channels], the input one vector."""
    return MatmulView(
        x,
        weight,
        _matrix_owners(-1),
        lambda x, w, _, blocks: _opened(x[None], w.mT, blocks),
        lambda y, blocks: _rows(y[None], blocks),
    )


def vector_of_matrix(x: int, weight: int) -> MatmulView:
    """The weight is a vector [channels], the input a matrix [n, channels]."""
    return MatmulView(
        x,
        weight,
        _matrix_owners(-1),
        lambda x, w, _, blocks: _opened(x, w[:, None], blocks),
        lambda y, blocks: _rows(y[:, None], blocks),
    )
