"""A limit on the time that is spent on measurements."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


class TimeIsUp(Exception):
    """A measurement was broken off; what was measured before it counts."""


@dataclass(frozen=True)
class TimeLimit:
    """Seconds from now on.

    Args:
        seconds: how many; measurements that have begun may end later.
    """

    seconds: float
    start: float = field(default_factory=time.perf_counter)

    @property
    def left(self) -> float:
        """Seconds that are left, at least 0."""
        return max(self.start + self.seconds - time.perf_counter(), 0.0)

    @property
    def over(self) -> bool:
        """Is nothing left?"""
        return self.left <= 0

    def part(self, fraction: float) -> TimeLimit:
        """A limit on a part of what is left."""
        return TimeLimit(self.left * fraction)

    def check(self) -> None:
        """Raise TimeIsUp if nothing is left."""
        if self.over:
            raise TimeIsUp
