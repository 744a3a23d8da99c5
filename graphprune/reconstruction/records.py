"""Records of what was changed and what was not; they print as tables."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Repaired:
    """A consumer that was fitted.

    Attributes:
        name: the parameter whose entries are its weight.
        before, after: the root mean square error of its output before and after the fit, relative to the root mean
            square of the dense output, on the calibration batches.
        intercept: the bias, or a batch norm's running mean, that absorbs the difference of means; None: there is none.
        summed: its output is added to a residual stream, and the errors are those of the sum.
    """

    name: str
    before: float
    after: float
    intercept: str | None
    summed: bool = False


@dataclass(frozen=True)
class LeftAlone:
    """A weight or group that was not changed, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class Compensated:
    """A pair of projections that was changed: keys and queries, or values and the weight that is applied to them.

    Attributes:
        name: the parameter of the keys or values.
        other: the parameter of the queries, or the weight that is applied to the values.
        heads: how many heads of keys or values were changed.
        before, after: the root mean square error of their products, relative to the root mean square of the dense
            products, assuming independent factors.
    """

    name: str
    other: str
    heads: int
    before: float
    after: float


@dataclass(frozen=True, eq=False)
class Compensation:
    """What :func:`compensate_heads` did.

    Attributes:
        compensated: the pairs of projections that were changed.
        left_alone: projections that lost part of their heads' width and were not changed, and why.
        targets: for each changed projection and its bias, the slim outputs as linear combinations of the dense
            outputs. [slim outputs, dense outputs], float64
    """

    compensated: tuple[Compensated, ...]
    left_alone: tuple[LeftAlone, ...]
    targets: dict[str, Tensor]

    def __str__(self) -> str:
        names = [*(one.name for one in self.compensated), *(one.name for one in self.left_alone)]
        width = max(map(len, names), default=0)
        lines = [
            f"Compensation: {len(self.compensated)} pairs of projections changed, {len(self.left_alone)} left alone"
        ]
        for one in self.compensated:
            errors = f"products lack {one.before:.2%} -> {one.after:.2%}"
            lines.append(f"  {one.name:<{width}}  {one.heads} heads, with {one.other}: {errors}")
        return "\n".join([*lines, *(f"  {one.name:<{width}}  left alone: {one.why}" for one in self.left_alone)])


@dataclass(frozen=True)
class Repair:
    """What :func:`graphprune.repair` or :func:`graphprune.reconstruct` did.

    Attributes:
        repaired: the consumers that were fitted, in this order.
        left_alone: the weights that were not changed, and why.
        norms: running means of the batch norms whose statistics were re-estimated.
        heads: what was done for narrower heads; None: there are none.
    """

    repaired: tuple[Repaired, ...]
    left_alone: tuple[LeftAlone, ...]
    norms: tuple[str, ...] = ()
    heads: Compensation | None = None

    def __str__(self) -> str:
        lines = [
            f"Repair: {len(self.repaired)} weights fitted, {len(self.norms)} batch norms re-estimated, "
            f"{len(self.left_alone)} weights left alone"
        ]
        names = [one.name for one in self.repaired] + [one.name for one in self.left_alone]
        width = max(map(len, names), default=6)
        if self.repaired:
            lines.append(f"  {'weight':<{width}}  {'error':>7} -> {'after':<7}  intercept")
        for one in self.repaired:
            of = " (sum)" if one.summed else ""
            errors = f"{one.before:>7.2%} -> {one.after:<7.2%}"
            lines.append(f"  {one.name:<{width}}  {errors}  {one.intercept or 'none'}{of}")
        lines += [f"  {one.name:<{width}}  left alone: {one.why}" for one in self.left_alone]
        return "\n".join(lines if self.heads is None else [*lines, str(self.heads)])
