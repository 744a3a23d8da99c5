"""Ridge regression of a consumer's residual (target minus output) on its input, from streamed second moments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from graphprune.calibration.communicator import Communicator
from graphprune.utils.devices import as_tensor


@dataclass(frozen=True)
class BatchMoments:
    """Moments of one batch, in float64.

    Attributes:
        count: rows of data.
        x: means of inputs. [blocks, channels]
        r: means of residuals. [blocks, outputs]
        xx, rx: sums of products of inputs, and of residuals and inputs, minus means. [blocks, channels or outputs,
            channels]
        rr: sums of squares of residuals, minus means. [blocks, outputs]
    """

    count: int
    x: Tensor
    r: Tensor
    xx: Tensor
    rx: Tensor
    rr: Tensor

    @staticmethod
    def of(x: Tensor, r: Tensor, spare: Tensor | None = None) -> BatchMoments:
        """The moments of inputs [n, blocks, channels, m] and residuals [n, blocks, outputs, m].

        Args:
            spare: becomes ``xx`` if it is of its shape.
        """
        x, r = (t if t.dtype in (torch.float32, torch.float64) else t.float() for t in (x, r))
        (xs, x_mean), (rs, r_mean) = _centered(x), _centered(r)
        rr = rs.double().square().sum(2)
        xx = taken(spare, rr, (xs.shape[0], xs.shape[1], xs.shape[1])).copy_(xs @ xs.mT)
        return BatchMoments(x.shape[0] * x.shape[3], x_mean, r_mean, xx, (rs @ xs.mT).double(), rr)


@dataclass
class Regression:
    """Moments of inputs ``x`` and of residuals ``r`` (target minus output), in float64.

    Means and products of batches are merged by Chan's formula (see :class:`graphprune.calibration.moments.Moments`).
    Memory: three times [blocks, channels, channels], and [blocks, outputs, channels].

    Attributes:
        count: rows of data.
        target: the sum of squares of the target outputs.
        spare: memory of the size of the products of inputs, for the next batch: new memory of many megabytes takes
            longer than what is done with it.
    """

    count: int = 0
    target: float = 0.0
    spare: Tensor | None = field(default=None, repr=False)
    _x: Tensor | float = field(default=0.0, repr=False)
    _r: Tensor | float = field(default=0.0, repr=False)
    _xx: Tensor | float = field(default=0.0, repr=False)
    _rx: Tensor | float = field(default=0.0, repr=False)
    _rr: Tensor | float = field(default=0.0, repr=False)

    def add(self, batch: BatchMoments, target: Tensor) -> None:
        """Add a batch.

        Args:
            batch: its moments, which are overwritten.
            target: its target outputs, of any shape.
        """
        if not batch.count:
            return
        self.target += float(target.double().square().sum())
        dx, dr, total = batch.x - self._x, batch.r - self._r, self.count + batch.count
        factor = self.count * batch.count / total
        if isinstance(self._xx, Tensor):
            self._xx.add_(batch.xx).baddbmm_(dx.unsqueeze(2), dx.unsqueeze(1), alpha=factor)
            self.spare = batch.xx
        else:
            self._xx = batch.xx
        self._rx = batch.rx.baddbmm_(dr.unsqueeze(2), dx.unsqueeze(1), alpha=factor).add_(self._rx)
        self._rr = self._rr + batch.rr + factor * dr.square()
        self._x = self._x + dx * (batch.count / total)
        self._r = self._r + dr * (batch.count / total)
        self.count = total

    def pool(self, communicator: Communicator) -> None:
        """Pool the moments of all processes."""
        if communicator.count == 1:
            return
        given = (self._x, self._r, self._xx, self._rx, self._rr)
        found = communicator.gather((self.count, self.target, [tuple(as_tensor(t).shape) for t in given]))
        total, shapes = sum(count for count, *_ in found), next((shapes for count, _, shapes in found if count), None)
        if shapes is None:
            return
        x, r, xx, rx, rr = (as_tensor(t).double().expand(shape) for t, shape in zip(given, shapes, strict=True))
        self._x, self._r = x * (self.count / total), r * (self.count / total)
        communicator.sum([self._x, self._r])
        dx, dr = x - self._x, r - self._r
        self._xx = xx + self.count * dx.unsqueeze(2) * dx.unsqueeze(1)
        self._rx = rx + self.count * dr.unsqueeze(2) * dx.unsqueeze(1)
        self._rr = rr + self.count * dr.square()
        communicator.sum([self._xx, self._rx, self._rr])
        self.count, self.target = total, sum(target for _, target, _ in found)

    @property
    def channels(self) -> int:
        """The number of channels of a block, counting every kernel position."""
        return as_tensor(self._xx).shape[-1]

    # ------------------------------------------------------------ solution

    def _moments(self, centered: bool) -> tuple[Tensor, Tensor]:
        """E[x xᵀ] in spare memory and E[r xᵀ], minus the means if ``centered``."""
        whole = as_tensor(self._xx)
        xx = torch.div(whole, self.count, out=taken(self.spare, whole, whole.shape))
        rx = as_tensor(self._rx) / self.count
        if centered:
            return xx, rx
        x, r = as_tensor(self._x).unsqueeze(1), as_tensor(self._r).unsqueeze(2)
        return xx.baddbmm_(x.mT, x), rx.baddbmm_(r, x)

    def solve(self, ridge: float, centered: bool) -> Tensor:
        """The change D of the weight that minimizes E|r - D x|² + lambda |D|².

        lambda is ``ridge`` times the mean square of the inputs. For any ``ridge``, the error is at most that of D = 0.

        Args:
            ridge: above 0.
            centered: a bias absorbs the means.

        Returns:
            [blocks, channels, outputs]
        """
        system, rx = self._moments(centered)
        diagonal = system.diagonal(dim1=1, dim2=2)
        mean = diagonal.mean(1, keepdim=True)
        diagonal += torch.where(mean == 0, 1.0, ridge * mean)  # inputs that are always zero have no products either
        return solve_positive(system, rx.mT)

    def intercept(self, change: Tensor) -> Tensor:
        """The intercept, E[r] - D E[x]. [blocks, outputs]"""
        return as_tensor(self._r) - (change.mT @ as_tensor(self._x).unsqueeze(2)).squeeze(2)

    def error(self, change: Tensor | None = None, intercept: Tensor | None = None) -> float:
        """The mean square residual after a change, as a fraction of the target's mean square.

        Args:
            change: of the weight; None: none.
            intercept: of the bias; None: none. [blocks, outputs]
        """
        if self.target == 0:
            return 0.0
        left, mean = as_tensor(self._rr).sum() / self.count, as_tensor(self._r)
        if change is not None:
            xx, rx = as_tensor(self._xx), as_tensor(self._rx)
            left = left + (change * (xx @ change - 2 * rx.mT)).sum() / self.count
            mean = self.intercept(change)
        left = left + (mean if intercept is None else mean - intercept).square().sum()
        return max(float(left), 0.0) * self.count / self.target


def taken(spare: Tensor | None, like: Tensor, shape: Sequence[int]) -> Tensor:
    """Memory of this shape to write to: ``spare`` if it fits, otherwise new memory of the type of ``like``."""
    return spare if spare is not None and spare.shape == torch.Size(shape) else like.new_empty(shape)


_SINGLE, _FEW = 1024, 16
"""A system is factored in single precision if it has ``_SINGLE`` unknowns and ``_FEW`` times as many as right sides."""
_CLOSE, _REFINEMENTS = 1e-8, 6
"""A refined solution's residual is below ``_CLOSE`` times the right side; each of ``_REFINEMENTS`` steps gains
digits."""


def solve_positive(system: Tensor, right: Tensor) -> Tensor:
    """The solution of positive definite systems [blocks, n, n], with right sides [blocks, n, m].

    With many unknowns and few right sides, it is factored in single precision and refined in double precision.

    Source: Langou, Langou, Luszczek, Kurzak, Buttari and Dongarra, "Exploiting the Performance of 32 bit Floating Point
    Arithmetic in Obtaining 64 bit Accuracy", SC 2006.
    """
    if system.shape[1] >= max(_SINGLE, _FEW * right.shape[2]) and (refined := _refined(system, right)) is not None:
        return refined
    factor, failed = torch.linalg.cholesky_ex(system)
    if bool(failed.any()):  # by rounding: the ridge makes it positive
        return torch.linalg.solve(system, right)  # type: ignore[no-any-return]
    return torch.cholesky_solve(right, factor)


def _refined(system: Tensor, right: Tensor) -> Tensor | None:
    """The solution from a factor in single precision; None if it is not reached that way."""
    size = system.diagonal(dim1=1, dim2=2).mean(1).view(-1, 1, 1)
    factor, failed = torch.linalg.cholesky_ex(system.float() / size.float())
    if bool(failed.any()):
        return None
    found, left, goal = torch.zeros_like(right), right, _CLOSE * right.norm()
    for _ in range(_REFINEMENTS):
        scale = left.abs().amax((1, 2), keepdim=True).clamp(min=torch.finfo(left.dtype).tiny)
        found += torch.cholesky_solve((left / scale).float(), factor).double() * (scale / size)
        left = right - system @ found
        if left.norm() <= goal:
            return found
    return None


def _centered(x: Tensor) -> tuple[Tensor, Tensor]:
    """``x`` [n, blocks, channels, m] minus its means, as [blocks, channels, n * m], and the means in float64."""
    mean = x.mean(dim=(0, 3), dtype=torch.float64)
    return (x - mean.to(x.dtype).unsqueeze(-1)).permute(1, 2, 0, 3).flatten(2), mean
