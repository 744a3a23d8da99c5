"""Means, variances and second moments of the inputs of a contraction, streamed over batches.

Memory: [blocks, channels], and with products of channels [blocks, channels, channels]. Batches are not kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from graphprune.calibration.communicator import Communicator
from graphprune.rules.labels import ParameterAxis
from graphprune.utils.arrays import Ids
from graphprune.utils.devices import as_tensor


class Moments:
    """Moments of channels ``x`` [n, blocks, channels, m] over n and m, in float64.

    The mean and variance of each batch are merged with the previous ones by Chan's formula, which avoids the
    cancellation of E[x²] - E[x]² (Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing
    Sample Variances", COMPSTAT 1982). Real and imaginary parts of complex channels count as samples of their own.

    Args:
        products: also stream the products of channels, for :attr:`covariance` and :attr:`second`.
    """

    def __init__(self, products: bool) -> None:
        self.products = products
        self.count = 0
        self._mean: Tensor | float = 0.0
        self._spread: Tensor | float = 0.0
        self._products: Tensor | float = 0.0

    def add(self, x: Tensor) -> None:
        """Add a batch ``x`` [n, blocks, channels, m]."""
        x = torch.cat((x.real, x.imag)) if x.is_complex() else x
        count = x.shape[0] * x.shape[3]
        if not count:
            return
        x = x if x.dtype in (torch.float32, torch.float64) else x.float()
        variance, mean = (v.double() for v in torch.var_mean(x, dim=(0, 3), correction=0))
        before, total = self.count, self.count + count
        change = mean - self._mean
        self._mean = self._mean + change * (count / total)
        self._spread = self._spread + variance * count + change.square() * (before * count / total)
        self.count = total
        if self.products:
            rows = (x - mean.to(x.dtype).unsqueeze(-1)).permute(1, 2, 0, 3).flatten(2)
            shift = change.unsqueeze(2) * change.unsqueeze(1) * (before * count / total)
            self._products = self._products + (rows @ rows.mT).double() + shift

    def pool(self, communicator: Communicator, device: torch.device | None = None) -> None:
        """Pool the moments of all processes, on ``device`` where this one has none."""
        if communicator.count == 1:
            return
        shapes = communicator.gather((self.count, tuple(as_tensor(self._mean).shape)))
        total, shape = sum(count for count, _ in shapes), next((shape for count, shape in shapes if count), ())
        if not total:
            return
        where = self.mean.device if self.count else device or torch.device("cpu")
        mean, spread, own = (
            torch.as_tensor(t, dtype=torch.float64, device=where) for t in (self._mean, self._spread, self._products)
        )
        mean = mean.expand(shape)
        pooled = mean * (self.count / total)
        communicator.sum([pooled])
        change = mean - pooled
        spread = spread + self.count * change.square()
        communicator.sum([spread])
        if self.products:
            self._products = own + self.count * change.unsqueeze(2) * change.unsqueeze(1)
            communicator.sum([self._products])
        self.count, self._mean, self._spread = total, pooled, spread

    @property
    def finite(self) -> bool:
        """Were all channels finite so far?"""
        return math.isfinite(float(as_tensor(self._spread).sum()))

    @property
    def mean(self) -> Tensor:
        """E[x]. [blocks, channels]"""
        return as_tensor(self._mean)

    @property
    def variance(self) -> Tensor:
        """E[(x - E[x])²]. [blocks, channels]"""
        return as_tensor(self._spread) / self.count

    @property
    def square(self) -> Tensor:
        """E[x²]. [blocks, channels]"""
        return self.variance + self.mean.square()

    @property
    def covariance(self) -> Tensor:
        """E[(x - E[x]) (x - E[x])ᵀ]. [blocks, channels, channels]"""
        return as_tensor(self._products) / self.count

    @property
    def second(self) -> Tensor:
        """E[x xᵀ]. [blocks, channels, channels]"""
        return self.covariance + self.mean.unsqueeze(2) * self.mean.unsqueeze(1)


@dataclass(frozen=True, eq=False)
class ConsumerStatistics:
    """A weight that sums over channels, and the moments of its inputs.

    Attributes:
        axes: the parameter axes that are summed over, such as ``"fc2.weight[1]"``.
        unit, place: removing ``unit[i]`` removes input channel ``place[i]``, an index into blocks * channels.
        absolute: the sum of |w| over outputs (and kernel positions). [blocks, channels]
        squares: the sum of |w|² over the same. [blocks, channels]
        products: W Wᵀ, summed over outputs, of complex weights the real part of W Wᴴ; None unless products were
            requested. [blocks, channels, channels]
        intercept: the contraction adds a bias.
        inputs: moments of the inputs.
    """

    axes: tuple[ParameterAxis, ...]
    unit: Ids
    place: Ids
    absolute: Tensor
    squares: Tensor
    products: Tensor | None
    intercept: bool
    inputs: Moments

    def without_inputs(self, device: torch.device | str) -> ConsumerStatistics:
        """The same weight on a device, before any input."""
        absolute, squares = self.absolute.to(device), self.squares.to(device)
        products = None if self.products is None else self.products.to(device)
        return replace(
            self, absolute=absolute, squares=squares, products=products, inputs=Moments(self.inputs.products)
        )
