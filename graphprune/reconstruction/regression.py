"""Ridge regression of a consumer's residual (target minus output) on its input, from streamed second moments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from graphprune.calibration.communicator import Communicator
from graphprune.reconstruction.kept_rows import FEWER, FewRows, KeptRows
from graphprune.reconstruction.positive_systems import solve_positive
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
    Rows that are few beside the channels are kept until there are more, and are fitted from as they are if there never
    are (see :mod:`graphprune.reconstruction.kept_rows`).
    Memory: three times [blocks, channels, channels], and [blocks, outputs, channels].

    Attributes:
        target: the sum of squares of the target outputs.
        spare: memory of the size of the products of inputs, for the next batch: new memory of many megabytes takes
            longer than what is done with it.
    """

    target: float = 0.0
    spare: Tensor | None = field(default=None, repr=False)
    _merged: int = 0
    _x: Tensor | float = field(default=0.0, repr=False)
    _r: Tensor | float = field(default=0.0, repr=False)
    _xx: Tensor | float = field(default=0.0, repr=False)
    _rx: Tensor | float = field(default=0.0, repr=False)
    _rr: Tensor | float = field(default=0.0, repr=False)
    _rows: KeptRows = field(default_factory=KeptRows, repr=False)
    _few: FewRows | None = field(default=None, repr=False)

    @property
    def count(self) -> int:
        """Rows of data."""
        return self._merged + self._rows.count + (0 if self._few is None else self._few.count)

    @staticmethod
    def keeps(rows: int, channels: int) -> bool:
        """Whether so many rows of a call are few beside the channels."""
        return rows <= channels // FEWER

    def add_rows(self, x: Tensor, r: Tensor, target: Tensor) -> None:
        """Add inputs [n, blocks, channels, m] and residuals [n, blocks, outputs, m].

        Args:
            target: the target outputs, of any shape.
        """
        count, channels = x.shape[0] * x.shape[3], x.shape[2]
        if not self.keeps(self._rows.count + count, channels):
            self._merge_rows()
        if not self.keeps(count, channels):
            self.add(BatchMoments.of(x, r, self.spare), target)
        elif count:
            self.target += float(target.double().square().sum())
            self._rows.add(x, r)

    def _merge_rows(self) -> None:
        """Merge the moments of the rows that are kept."""
        if self._rows.count:
            x, r = (rows.transpose(0, 1).unsqueeze(3) for rows in self._rows.take())
            self._merge(BatchMoments.of(x, r, self.spare))

    def _settle(self) -> None:
        """All rows are there: those that are kept are either all, or are merged with the others."""
        if self._rows.count and not self._merged:
            self._few = FewRows(*self._rows.take())
        else:
            self._merge_rows()

    def add(self, batch: BatchMoments, target: Tensor) -> None:
        """Add a batch.

        Args:
            batch: its moments, which are overwritten.
            target: its target outputs, of any shape.
        """
        if not batch.count:
            return
        self.target += float(target.double().square().sum())
        self._merge(batch)

    def _merge(self, batch: BatchMoments) -> None:
        dx, dr, total = batch.x - self._x, batch.r - self._r, self._merged + batch.count
        factor = self._merged * batch.count / total
        if isinstance(self._xx, Tensor):
            self._xx.add_(batch.xx).baddbmm_(dx.unsqueeze(2), dx.unsqueeze(1), alpha=factor)
            self.spare = batch.xx
        else:
            self._xx = batch.xx
        self._rx = batch.rx.baddbmm_(dr.unsqueeze(2), dx.unsqueeze(1), alpha=factor).add_(self._rx)
        self._rr = self._rr + batch.rr + factor * dr.square()
        self._x = self._x + dx * (batch.count / total)
        self._r = self._r + dr * (batch.count / total)
        self._merged = total

    def pool(self, communicator: Communicator) -> None:
        """Pool the moments of all processes."""
        if communicator.count == 1:
            return
        self._merge_rows()
        given = (self._x, self._r, self._xx, self._rx, self._rr)
        found = communicator.gather((self._merged, self.target, [tuple(as_tensor(t).shape) for t in given]))
        total, shapes = sum(count for count, *_ in found), next((shapes for count, _, shapes in found if count), None)
        if shapes is None:
            return
        x, r, xx, rx, rr = (as_tensor(t).double().expand(shape) for t, shape in zip(given, shapes, strict=True))
        self._x, self._r = x * (self._merged / total), r * (self._merged / total)
        communicator.sum([self._x, self._r])
        dx, dr = x - self._x, r - self._r
        self._xx = xx + self._merged * dx.unsqueeze(2) * dx.unsqueeze(1)
        self._rx = rx + self._merged * dr.unsqueeze(2) * dx.unsqueeze(1)
        self._rr = rr + self._merged * dr.square()
        communicator.sum([self._xx, self._rx, self._rr])
        self._merged, self.target = total, sum(target for _, target, _ in found)

    @property
    def channels(self) -> int:
        """The number of channels of a block, counting every kernel position."""
        self._settle()
        return (as_tensor(self._xx) if self._few is None else self._few.x_mean).shape[-1]

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
        self._settle()
        if self._few is not None:
            return self._few.solve(ridge, centered)
        system, rx = self._moments(centered)
        diagonal = system.diagonal(dim1=1, dim2=2)
        mean = diagonal.mean(1, keepdim=True)
        diagonal += torch.where(mean == 0, 1.0, ridge * mean)  # inputs that are always zero have no products either
        return solve_positive(system, rx.mT)

    def intercept(self, change: Tensor) -> Tensor:
        """The intercept, E[r] - D E[x]. [blocks, outputs]"""
        x, r = self._means()
        return r - (change.mT @ x.unsqueeze(2)).squeeze(2)

    def _means(self) -> tuple[Tensor, Tensor]:
        """Of inputs and of residuals."""
        self._settle()
        return (as_tensor(self._x), as_tensor(self._r)) if self._few is None else (self._few.x_mean, self._few.r_mean)

    def _squares(self, change: Tensor | None) -> Tensor:
        """The sum of squares of the residuals after a change of the weight, minus means."""
        self._settle()
        if self._few is not None:
            return self._few.squares(change)
        left = as_tensor(self._rr).sum()
        if change is None:
            return left
        xx, rx = as_tensor(self._xx), as_tensor(self._rx)
        return left + (change * (xx @ change - 2 * rx.mT)).sum()

    def error(self, change: Tensor | None = None, intercept: Tensor | None = None) -> float:
        """The mean square residual after a change, as a fraction of the target's mean square.

        Args:
            change: of the weight; None: none.
            intercept: of the bias; None: none. [blocks, outputs]
        """
        if self.target == 0:
            return 0.0
        mean = self._means()[1] if change is None else self.intercept(change)
        constant = (mean if intercept is None else mean - intercept).square().sum()
        return max(float(self._squares(change) + self.count * constant), 0.0) / self.target


def taken(spare: Tensor | None, like: Tensor, shape: Sequence[int]) -> Tensor:
    """Memory of this shape to write to: ``spare`` if it fits, otherwise new memory of the type of ``like``."""
    return spare if spare is not None and spare.shape == torch.Size(shape) else like.new_empty(shape)


def _centered(x: Tensor) -> tuple[Tensor, Tensor]:
    """``x`` [n, blocks, channels, m] minus its means, as [blocks, channels, n * m], and the means in float64."""
    mean = x.mean(dim=(0, 3), dtype=torch.float64)
    return (x - mean.to(x.dtype).unsqueeze(-1)).permute(1, 2, 0, 3).flatten(2), mean
