"""Moments of the windows that a convolution sees, without unfolding them.

Windows overlap: what two taps of a kernel see together are products of the input with itself, shifted. Along one
dimension of space, with taps ``i`` and ``j``, stride ``s`` and outputs ``p < P``, the sum

    S(i, j) = sum of x[s p + i] x[s p + j] over p,    S(i, j) = S(i - s, j - s) - first + last

where ``first`` is the product at ``p = 0`` of the earlier pair and ``last`` that at ``p = P - 1`` of the later one. So
only the rows of the first ``s`` taps are sums over all outputs. They are gradients of a convolution's weight, which
torch computes without unfolding either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn import grad

from graphprune.reconstruction.linear_calls import LinearCall
from graphprune.reconstruction.regression import BatchMoments, taken

_WEIGHT_GRADIENTS: dict[int, Callable[..., Tensor]] = {
    1: grad.conv1d_weight,
    2: grad.conv2d_weight,
    3: grad.conv3d_weight,
}

WORTH = 0.7
"""Windows are unfolded where shifts would take more than this fraction of the products."""


def window_moments(call: LinearCall, residual: Tensor, spare: Tensor | None = None) -> BatchMoments | None:
    """The moments of a convolution's inputs and residuals; None where unfolding takes hardly more.

    Args:
        residual: [n, blocks, outputs, m]
        spare: becomes the products of inputs if it is of their shape.
    """
    kernel = call.matmul.kernel
    if kernel is None or call.key.transposed:
        return None
    windows = _Windows.of(call, residual.shape[3])
    return windows.moments(residual, spare) if windows is not None else None


@dataclass(frozen=True)
class _Windows:
    """Windows over a padded input.

    Attributes:
        x: the padded input minus ``center``. [n, channels of all blocks, ...]
        center: the mean of each channel. [channels of all blocks]
        kernel, stride, dilation: for each dimension of space.
        outputs: the positions of the window, for each dimension of space.
        blocks: groups of channels.
        dim: the dimension of space along which windows are shifted.
    """

    x: Tensor
    center: Tensor
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    outputs: tuple[int, ...]
    blocks: int
    dim: int

    @staticmethod
    def of(call: LinearCall, positions: int) -> _Windows | None:
        """The windows of a convolution, if shifts are worth it."""
        kernel = tuple(call.key.view.size[2:])
        stride, padding, dilation = (tuple(call.args[i]) * (len(kernel) // len(call.args[i])) for i in (3, 4, 5))
        dim = max(range(len(kernel)), key=lambda d: kernel[d])
        size = [n + 2 * p for n, p in zip(call.x.shape[2:], padding, strict=True)]
        spans = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        outputs = tuple((n - span) // s + 1 for n, span, s in zip(size, spans, stride, strict=True))
        k, s = kernel[dim], stride[dim]
        if dilation[dim] != 1 or prod(outputs) != positions or (s + 2 * k / outputs[dim]) > WORTH * k:
            return None
        x = call.x if call.x.dtype in (torch.float32, torch.float64) else call.x.float()
        x = F.pad(x, [p for pad in reversed(padding) for p in (pad, pad)])
        center = x.mean(dim=(0, *range(2, x.ndim)), dtype=torch.float64)
        x = x - center.to(x.dtype).view(1, -1, *(1 for _ in kernel))
        return _Windows(x, center, kernel, stride, dilation, outputs, call.key.blocks, dim)

    @property
    def channels(self) -> int:
        """Channels of a block."""
        return self.x.shape[1] // self.blocks

    @property
    def other_dims(self) -> list[int]:
        """The dimensions of space but the one along which windows are shifted."""
        return [d for d in range(len(self.kernel)) if d != self.dim]

    @property
    def _other_taps(self) -> list[int]:
        """The taps of each other dimension."""
        return [self.kernel[d] for d in self.other_dims]

    def moments(self, residual: Tensor, spare: Tensor | None) -> BatchMoments:
        """Moments of windows and residuals [n, blocks, outputs, m]."""
        count = residual.shape[0] * residual.shape[3]
        r = residual.to(self.x.dtype)
        r_mean = r.mean(dim=(0, 3), dtype=torch.float64)
        r = r - r_mean.to(r.dtype).unsqueeze(-1)
        ones = r.new_ones(1).expand(r.shape[0], self.blocks, 1, r.shape[3])
        rows = r.shape[2]
        sums = self._products(torch.cat([r, ones, self._first_taps()], 2))
        mean = sums[:, rows].flatten(1) / count
        xx = self._all_taps(sums[:, rows + 1 :], spare)
        xx.baddbmm_(mean.unsqueeze(2), mean.unsqueeze(1), alpha=-count)
        center = self.center.view(self.blocks, -1).repeat_interleave(prod(self.kernel), 1)
        rr = r.double().square().sum((0, 3))
        return BatchMoments(count, mean + center, r_mean, xx, sums[:, :rows].flatten(2), rr)

    # ------------------------------------------------------------ rows of the first taps

    def _tap(self, at: Sequence[int]) -> Tensor:
        """What one tap sees. [n, channels of all blocks, outputs...]"""
        geometry = zip(at, self.dilation, self.stride, self.outputs, strict=True)
        index = [slice(None), slice(None), *(slice(i * d, i * d + s * (n - 1) + 1, s) for i, d, s, n in geometry)]
        return self.x[tuple(index)]

    def _first_taps(self) -> Tensor:
        """What the first ``stride`` taps see, with all taps of other dimensions. [n, blocks, channels * taps, m]"""
        first = product(range(self.stride[self.dim]), *(range(self.kernel[d]) for d in self.other_dims))
        taps = [self._tap([*at[1 : 1 + self.dim], at[0], *at[1 + self.dim :]]) for at in first]
        seen = torch.stack(taps, 2)
        return seen.reshape(seen.shape[0], self.blocks, self.channels * len(taps), -1)

    def _products(self, rows: Tensor) -> Tensor:
        """Sums of products of ``rows`` [n, blocks, rows, m] with what every tap sees.

        Returns:
            float64 [blocks, rows, channels, kernel...]
        """
        gradient = rows.flatten(1, 2).unflatten(2, self.outputs)
        shape = (gradient.shape[1], self.channels, *self.kernel)
        weight_gradient = _WEIGHT_GRADIENTS[len(self.kernel)]
        found = weight_gradient(self.x, shape, gradient, self.stride, 0, self.dilation, self.blocks)
        return found.double().view(self.blocks, -1, self.channels, *self.kernel)

    # ------------------------------------------------------------ all others by shifts

    def _all_taps(self, first: Tensor, spare: Tensor | None) -> Tensor:
        """Sums for all pairs of taps from those of the first ones [blocks, channels * taps, channels, kernel...].

        Returns:
            As the entries of a weight are ordered. [blocks, channels * taps, channels * taps]
        """
        k, s, side = self.kernel[self.dim], self.stride[self.dim], (self.channels, *self.kernel)
        later = (self.channels, *(k - s if d == self.dim else n for d, n in enumerate(self.kernel)))
        entries = prod(side)
        found = taken(spare, first, (self.blocks, entries, entries)).view(self.blocks, *side, *side)
        row_tap, tap = 2 + self.dim, 2 + len(self.kernel) + 1 + self.dim
        found.narrow(row_tap, s, k - s).narrow(tap, s, k - s).copy_(
            self._edge_products(k - s).view(self.blocks, *later, *later)
        )
        by_tap = found.movedim(row_tap, 1)  # [blocks, k, channels * others, channels, kernel...]
        by_tap[:, :s] = first.view(self.blocks, self.channels, s, *self._other_taps, *side).movedim(2, 1)
        mine = range(2, 2 + len(self.kernel))
        for i in range(s, k):
            earlier = by_tap[:, :s].select(tap, i)  # [blocks, s, channels, others..., channels, others...]
            earlier = earlier.permute(0, *(len(mine) + d for d in mine), *mine, 1).movedim(-1, tap - 1)
            by_tap[:, i].narrow(tap - 1, 0, s).copy_(earlier)
            by_tap[:, i].narrow(tap - 1, s, k - s).add_(by_tap[:, i - s].narrow(tap - 1, 0, k - s))
        return found.view(self.blocks, entries, entries)

    def _edge_products(self, length: int) -> Tensor:
        """What the sums for two taps, ``stride`` later, have at the last position more than at the first.

        Returns:
            As the entries of a weight of ``length`` taps are ordered. [blocks, entries, entries]
        """
        first, last = (self._edge(n * self.stride[self.dim], length) for n in (0, self.outputs[self.dim]))
        found: Tensor = torch.cat([last, first], 2) @ torch.cat([last, -first], 2).mT
        return found

    def _edge(self, start: int, length: int) -> Tensor:
        """Entries of the input along the dimension, as all taps of others see them.

        Returns:
            float64 [blocks, entries of a weight of ``length`` taps, n * outputs of others]
        """
        edge = self.x.narrow(2 + self.dim, start, length).double().movedim(2 + self.dim, 2)
        for number, d in enumerate(self.other_dims):
            span = self.dilation[d] * (self.kernel[d] - 1) + 1
            edge = edge.unfold(3 + number, span, self.stride[d])[..., :: self.dilation[d]]
        edge = edge.unflatten(1, (self.blocks, self.channels))  # [n, blocks, channels, length, outputs..., taps...]
        outs, taps = range(4, 3 + len(self.kernel)), [*range(3 + len(self.kernel), edge.ndim)]
        taps.insert(self.dim, 3)
        found: Tensor = edge.permute([1, 2, *taps, 0, *outs]).flatten(1, 1 + len(taps)).flatten(2)
        return found
