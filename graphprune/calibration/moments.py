"""Means, variances and second moments of the inputs of a contraction, streamed over batches.

Memory: [blocks, channels], and with products of channels [blocks, channels, channels]. Batches are not kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphprune.rules.labels import ParameterAxis
from graphprune.utils.arrays import Ids


class Moments:
    """Moments of channels ``x`` [n, blocks, channels, m] over n and m, in float64.

    The mean and variance of each batch are merged with the previous ones by Chan's formula, which avoids the
    cancellation of E[x²] - E[x]² (Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing
    Sample Variances", COMPSTAT 1982).

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

    @property
    def mean(self) -> Tensor:
        """E[x]. [blocks, channels]"""
        return torch.as_tensor(self._mean)

    @property
    def variance(self) -> Tensor:
        """E[(x - E[x])²]. [blocks, channels]"""
        return torch.as_tensor(self._spread) / self.count

    @property
    def square(self) -> Tensor:
        """E[x²]. [blocks, channels]"""
        return self.variance + self.mean.square()

    @property
    def covariance(self) -> Tensor:
        """E[(x - E[x]) (x - E[x])ᵀ]. [blocks, channels, channels]"""
        return torch.as_tensor(self._products) / self.count

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
        squares: the sum of w² over the same. [blocks, channels]
        products: W Wᵀ, summed over outputs; None unless products were requested. [blocks, channels, channels]
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
