"""What repair did, as data that prints."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Repaired:
    """A consumer that was fitted.

    Attributes:
        name: the parameter whose entries are its weight.
        before, after: the root mean square of what its output lacks, as a fraction of the root mean square of the dense
            output, on the calibration data: when its turn came, and after it was fitted.
        intercept: the bias, or a batch norm's running mean, that took the difference of means; None: there was none.
    """

    name: str
    before: float
    after: float
    intercept: str | None


@dataclass(frozen=True)
class LeftAlone:
    """A weight that was not changed, and why."""

    name: str
    why: str


@dataclass(frozen=True)
class Repair:
    """What was fitted, in order, and what was left alone.

    Attributes:
        norms: running means of the batch norms whose statistics were estimated anew.
    """

    repaired: tuple[Repaired, ...]
    left_alone: tuple[LeftAlone, ...]
    norms: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"Repair: {len(self.repaired)} weights fitted, {len(self.norms)} batch norms estimated anew, "
            f"{len(self.left_alone)} weights left alone"
        ]
        names = [one.name for one in self.repaired] + [one.name for one in self.left_alone]
        width = max(map(len, names), default=6)
        if self.repaired:
            lines.append(f"  {'weight':<{width}}  {'error':>7} -> {'after':<7}  intercept")
        for one in self.repaired:
            lines.append(f"  {one.name:<{width}}  {one.before:>7.2%} -> {one.after:<7.2%}  {one.intercept or 'none'}")
        lines += [f"  {one.name:<{width}}  left alone: {one.why}" for one in self.left_alone]
        return "\n".join(lines)
