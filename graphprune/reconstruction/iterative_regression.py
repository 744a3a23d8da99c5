"""Ridge regression without the matrix of second moments, for consumers too wide for it: conjugate gradients.

Each step multiplies with the inputs of all batches, which are kept, or moved out and brought back one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from graphprune.calibration.communicator import ALONE, Communicator
from graphprune.calibration.moments import Moments
from graphprune.reconstruction.linear_calls import LinearCall
from graphprune.reconstruction.memory_bound import MemoryBound
from graphprune.reconstruction.tensor_group import TensorGroup

CG_TOLERANCE, CG_STEPS = 1e-4, 300
"""Conjugate gradients end where the residual of the equations is this fraction of the right side, or after so many
steps. Their objective falls in each step, so the error is never above that of no change."""
CG_STATE = 5
"""Vectors of the size of the weight that they keep."""


@dataclass(frozen=True)
class _Rows:
    """A call of the consumer, and its residuals [n, blocks, outputs, m]."""

    call: LinearCall
    residual: Tensor
    group: TensorGroup | None

    def pieces(self, piece: int | None) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs [blocks, channels, rows] and residuals [blocks, outputs, rows]."""
        for part, x in self.call.inputs(piece):
            yield _flat(x), _flat(self.residual[part])


class IterativeRegression:
    """The same as :class:`graphprune.reconstruction.regression.Regression`, from the rows themselves.

    Args:
        memory: what bounds the rows.
        entries: of the weight that are solved for at once.
    """

    def __init__(self, memory: MemoryBound, entries: int) -> None:
        self.target = 0.0
        self._memory = memory
        self._entries = entries
        self._rows: list[_Rows] = []
        self._x, self._r = Moments(False), Moments(False)
        self._communicator = ALONE

    def add(self, call: LinearCall, residual: Tensor, target: Tensor) -> None:
        """Add a call.

        Args:
            residual: [n, blocks, outputs, m]
            target: its target outputs, of any shape.
        """
        if not residual.numel():
            return
        self.target += float(target.double().square().sum())
        self._r.add(residual)
        group, kept = self._memory.group(), call.copied()
        self._rows.append(_Rows(kept, residual, group))
        for _, x in kept.inputs(self._memory.piece):
            self._x.add(x)
        if group is not None:
            group.add((kept.x, residual))

    def pool(self, communicator: Communicator) -> None:
        """From now on, sum over the rows of all processes."""
        self._communicator = communicator
        self._x.pool(communicator)
        self._r.pool(communicator)
        self.target = sum(communicator.gather(self.target))

    def close(self) -> None:
        """Drop the rows."""
        for rows in self._rows:
            self._memory.drop(rows.group)
        self._rows.clear()

    @property
    def count(self) -> int:
        """Rows of data."""
        return self._x.count

    @property
    def channels(self) -> int:
        """The number of channels of a block, counting every kernel position."""
        return self._x.mean.shape[-1]

    # ------------------------------------------------------------ solution

    def solve(self, ridge: float, centered: bool) -> Tensor:
        """The change of the weight, as :meth:`Regression.solve` gives it. [blocks, channels, outputs]"""
        mean, square = self._x.mean.unsqueeze(2), (self._x.variance if centered else self._x.square).unsqueeze(2)
        penalty = ridge * square.mean(1, keepdim=True)
        penalty = torch.where(penalty == 0, 1.0, penalty)  # inputs that are always zero
        x, r = mean * centered, self._r.mean.unsqueeze(2) * centered

        def product(p: Tensor) -> Tensor:
            return self._sum(lambda xs, _: _second_moments(xs - x.to(xs), p), p) + penalty * p

        blocks, outputs = self._r.mean.shape
        solved = mean.new_empty(blocks, self.channels, outputs)
        step = max(1, self._entries // (blocks * self.channels))
        for start in range(0, outputs, step):
            some = slice(start, start + step)
            solved[:, :, some] = conjugate_gradients(product, self._right(some, x, r[:, some]), square + penalty)
        return solved

    def _right(self, some: slice, x: Tensor, r: Tensor) -> Tensor:
        """E[(x - its mean) (r - its mean)ᵀ] for some outputs. [blocks, channels, outputs]"""
        return self._sum(lambda xs, rs: (xs - x.to(xs)) @ (rs[:, some] - r.to(rs)).mT, x + r.mT)

    def intercept(self, change: Tensor) -> Tensor:
        """The intercept, E[r] - D E[x]. [blocks, outputs]"""
        return self._r.mean - (change.mT @ self._x.mean.unsqueeze(2)).squeeze(2)

    def error(self, change: Tensor | None = None, intercept: Tensor | None = None) -> float:
        """The mean square residual after a change, as a fraction of the target's mean square.

        Args:
            change: of the weight; None: none.
            intercept: of the bias; None: none. [blocks, outputs]
        """
        if self.target == 0:
            return 0.0
        added = torch.zeros_like(self._r.mean) if intercept is None else intercept

        def squares(xs: Tensor, rs: Tensor) -> Tensor:
            left = rs - added.unsqueeze(2).to(rs)
            return (left if change is None else left - change.to(xs).mT @ xs).double().square().sum()

        return float(self._sum(squares, added.sum())) * self.count / self.target

    def _sum(self, term: Callable[[Tensor, Tensor], Tensor], like: Tensor) -> Tensor:
        """The mean over the rows of all processes of what ``term`` sums over inputs and residuals of some.

        Returns:
            float64, of the shape of ``like``.
        """
        total = torch.zeros_like(like, memory_format=torch.contiguous_format)
        for rows in self._rows:
            self._memory.use(rows.group, running=False)
            for xs, rs in rows.pieces(self._memory.piece):
                total += term(xs, rs).double() / self.count
        self._communicator.sum([total])
        return total


def conjugate_gradients(product: Callable[[Tensor], Tensor], right: Tensor, diagonal: Tensor) -> Tensor:
    """The solutions of positive definite systems, one for each column of ``right`` [blocks, n, columns].

    Source: Hestenes and Stiefel, "Methods of Conjugate Gradients for Solving Linear Systems", Journal of Research of
    the National Bureau of Standards, 1952.

    Args:
        product: what the systems make of vectors.
        right: the right sides, which are overwritten.
        diagonal: of the systems, to scale them by. [blocks, n, 1]
    """
    found, left, goal = torch.zeros_like(right), right, CG_TOLERANCE * right.norm(dim=1, keepdim=True)
    direction = scaled = left / diagonal
    power = (left * scaled).sum(1, keepdim=True)
    for _ in range(CG_STEPS):
        if bool((left.norm(dim=1, keepdim=True) <= goal).all()):
            break
        image = product(direction)
        length = _ratio(power, (direction * image).sum(1, keepdim=True))
        found += length * direction
        left -= length * image
        scaled = left / diagonal
        before, power = power, (left * scaled).sum(1, keepdim=True)
        direction = scaled + _ratio(power, before) * direction
    return found


def _ratio(upper: Tensor, lower: Tensor) -> Tensor:
    """A quotient of numbers that are not negative; 0 where a column is solved exactly."""
    return torch.where(lower > 0, upper / lower, 0.0)


def _second_moments(x: Tensor, p: Tensor) -> Tensor:
    """``x xᵀ p`` for inputs ``x`` [blocks, channels, rows], in their precision."""
    return x @ (x.mT @ p.to(x))


def _flat(x: Tensor) -> Tensor:
    """[n, blocks, channels, m] as [blocks, channels, n * m], in at least single precision."""
    x = x if x.dtype in (torch.float32, torch.float64) else x.float()
    return x.permute(1, 2, 0, 3).flatten(2)
