"""Records of what was changed and what was not; they print as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from graphprune.utils.tables import Printed, Table


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


def left_alone_table(records: Sequence[LeftAlone]) -> Iterator[Table]:
    """What was not changed, and why, as a table; nothing where there is nothing."""
    if records:
        yield Table("left alone:", ("name", "why"), tuple((one.name, one.why) for one in records))


@dataclass(frozen=True, eq=False, repr=False)
class Compensation(Printed):
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

    def _summary(self) -> str:
        return f"Compensation: {len(self.compensated)} pairs of projections changed, {len(self.left_alone)} left alone"

    def _parts(self) -> Iterator[str | Table]:
        yield self._summary()
        if self.compensated:
            columns = ("projection", "with", "heads", "error before", "after")
            rows = ((c.name, c.other, str(c.heads), f"{c.before:.2%}", f"{c.after:.2%}") for c in self.compensated)
            yield Table("products of projections:", columns, tuple(rows), numbers=columns[2:])
        yield from left_alone_table(self.left_alone)


@dataclass(frozen=True, repr=False)
class Repair(Printed):
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

    def _summary(self) -> str:
        return (
            f"Repair: {len(self.repaired)} weights fitted, {len(self.norms)} batch norms re-estimated, "
            f"{len(self.left_alone)} weights left alone"
        )

    def _parts(self) -> Iterator[str | Table | Printed]:
        yield self._summary()
        if self.repaired:
            columns = ("weight", "error before", "after", "intercept")
            yield Table("fitted:", columns, tuple(map(_repaired_row, self.repaired)), numbers=columns[1:3])
        yield from left_alone_table(self.left_alone)
        if self.heads is not None:
            yield self.heads


def _repaired_row(one: Repaired) -> tuple[str, ...]:
    of = " (sum)" if one.summed else ""
    return one.name, f"{one.before:.2%}", f"{one.after:.2%}", f"{one.intercept or 'none'}{of}"
