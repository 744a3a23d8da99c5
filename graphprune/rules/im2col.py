"""Convolutions of any geometry as matrix products: every tap of a kernel is a channel of its own."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import Tensor
from torch.nn import functional as F

Opened = tuple[Tensor, Tensor]


def open_convolution(x: Tensor, weight: Tensor, args: Sequence[Any], blocks: int) -> Opened:
    """Every tap of the kernel [outputs, channels, ...] is a channel of its own."""
    stride, padding, dilation = (_by_dim(args[i], weight.ndim - 2) for i in (3, 4, 5))
    opened = _patches(x, [(p, p) for p in padding], weight.shape[2:], stride, dilation, blocks)
    return opened, weight.reshape(blocks, weight.shape[0] // blocks, -1).transpose(1, 2)


def open_transposed_convolution(x: Tensor, weight: Tensor, args: Sequence[Any], blocks: int) -> Opened:
    """A transposed convolution is a plain one of the input with zeros between its entries and the flipped kernel."""
    stride, padding, dilation, extra = (_by_dim(args[i], weight.ndim - 2) for i in (3, 4, 5, 7))
    sides = [
        (d * (k - 1) - p, d * (k - 1) - p + e)
        for k, p, d, e in zip(weight.shape[2:], padding, dilation, extra, strict=True)
    ]
    opened = _patches(_stuffed(x, stride), sides, weight.shape[2:], (1,) * len(stride), dilation, blocks)
    kernel = weight.flip(list(range(2, weight.ndim))).reshape(blocks, weight.shape[0] // blocks, weight.shape[1], -1)
    return opened, kernel.transpose(2, 3).flatten(1, 2)


def _by_dim(value: Sequence[int], dims: int) -> tuple[int, ...]:
    """A setting of a convolution for each dimension of space; one may stand for all."""
    return tuple(value) * (dims // len(value))


def _stuffed(x: Tensor, stride: Sequence[int]) -> Tensor:
    """``x`` [n, channels, ...] with ``stride - 1`` zeros between neighbors."""
    out = x.new_zeros((*x.shape[:2], *((size - 1) * s + 1 for size, s in zip(x.shape[2:], stride, strict=True))))
    every = (slice(None), slice(None), *(slice(None, None, s) for s in stride))
    out[every] = x
    return out


def _patches(
    x: Tensor,
    sides: Sequence[tuple[int, int]],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    blocks: int,
) -> Tensor:
    """What each position of a kernel sees of ``x`` [n, channels, ...] padded by ``sides``.

    Returns:
        [n, blocks, channels of a block * taps, positions]
    """
    dims = len(kernel)
    x = F.pad(x, [p for pair in reversed(sides) for p in pair])
    for d in range(dims):
        x = x.unfold(2 + d, dilation[d] * (kernel[d] - 1) + 1, stride[d])[..., :: dilation[d]]
    taps = x.permute(0, 1, *range(2 + dims, 2 + 2 * dims), *range(2, 2 + dims))
    return taps.reshape(x.shape[0], blocks, x.shape[1] // blocks * prod(kernel), -1)
