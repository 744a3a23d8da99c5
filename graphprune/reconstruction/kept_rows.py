"""Ridge regression on rows of data that are fewer than the channels: from products of rows instead of channels.

With inputs X [rows, channels], residuals R [rows, outputs] and a penalty, the change of the weight is

    (Xᵀ X + penalty)⁻¹ Xᵀ R = Xᵀ (X Xᵀ + penalty)⁻¹ R,

of which the right side takes a matrix of rows. A few short texts have some thousand rows, and a layer of a large
language model has more channels.

Source: Saunders, Gammerman and Vovk, "Ridge Regression Learning Algorithm in Dual Variables", ICML 1998.
"""

from __future__ import annotations

import torch
from torch import Tensor

from graphprune.reconstruction.positive_systems import solve_positive

FEWER = 2
"""Rows are kept while there are ``FEWER`` times as many channels."""


class KeptRows:
    """Copies of inputs and residuals.

    Attributes:
        count: of the rows.
    """

    def __init__(self) -> None:
        self.count = 0
        self._x: list[Tensor] = []
        self._r: list[Tensor] = []

    def add(self, x: Tensor, r: Tensor) -> None:
        """Keep inputs [n, blocks, channels, m] and residuals [n, blocks, outputs, m]."""
        self.count += x.shape[0] * x.shape[3]
        self._x.append(_rows(x))
        self._r.append(_rows(r))

    def take(self) -> tuple[Tensor, Tensor]:
        """Inputs [blocks, rows, channels] and residuals [blocks, rows, outputs], which are not kept any longer."""
        x, r = _joined(self._x), _joined(self._r)
        self.count = 0
        return x, r


def _rows(t: Tensor) -> Tensor:
    """A copy of [n, blocks, channels, m] as [blocks, n * m, channels], in at least single precision."""
    n, blocks, channels, m = t.shape
    dtype = t.dtype if t.dtype in (torch.float32, torch.float64) else torch.float32
    made = torch.empty(blocks, n, m, channels, dtype=dtype, device=t.device)
    return made.copy_(t.permute(1, 0, 3, 2)).view(blocks, n * m, channels)


def _joined(parts: list[Tensor]) -> Tensor:
    made = torch.cat(parts, 1)
    parts.clear()
    return made


class FewRows:
    """Moments of rows, minus means, which are given out by products with them.

    Args:
        x: inputs, which are overwritten. [blocks, rows, channels]
        r: residuals, which are overwritten. [blocks, rows, outputs]

    Attributes:
        x_mean, r_mean: the means, in float64. [blocks, channels or outputs]
    """

    def __init__(self, x: Tensor, r: Tensor) -> None:
        self.x_mean, self.r_mean = _center(x), _center(r)
        self._x = x
        self._r = r

    @property
    def count(self) -> int:
        return self._x.shape[1]

    def solve(self, ridge: float, centered: bool) -> Tensor:
        """The change of the weight, as :meth:`graphprune.reconstruction.regression.Regression.solve` gives it."""
        x, r = self._x, self._r
        if not centered:
            x, r = x + self.x_mean.unsqueeze(1).to(x.dtype), r + self.r_mean.unsqueeze(1).to(r.dtype)
        system = (x @ x.mT).double()
        diagonal = system.diagonal(dim1=1, dim2=2)
        mean = diagonal.sum(1, keepdim=True) / x.shape[2]
        diagonal += torch.where(mean == 0, 1.0, ridge * mean)
        return (x.mT @ solve_positive(system, r.double()).to(x.dtype)).double()

    def squares(self, change: Tensor | None = None) -> Tensor:
        """The sum of squares of the residuals after a change of the weight, minus means."""
        left = self._r if change is None else self._r - self._x @ change.to(self._x.dtype)
        return left.double().square().sum()


def _center(t: Tensor) -> Tensor:
    """Subtract the means of [blocks, rows, n] in place, and return them in float64."""
    mean = t.mean(dim=1, dtype=torch.float64)
    t -= mean.unsqueeze(1).to(t.dtype)
    return mean
