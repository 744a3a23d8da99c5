"""What lives when some units are gone, counted by items: without looking at every class."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np

from graphprune.graph.solve import Solution
from graphprune.utils.arrays import Ids, Mask


class Living:
    """What lives.

    Args:
        solution: the classes, and the items that they belong to.
        gone: how many units of each item are gone. [items]
        removed: tells the units that are gone.
    """

    def __init__(self, solution: Solution, gone: Ids, removed: Callable[[], Ids]) -> None:
        self._solution = solution
        self._gone = gone
        self._removed = removed

    @cached_property
    def alive(self) -> Mask:
        """Which classes live. [classes]"""
        return self._solution.alive(self._removed())

    @cached_property
    def counts(self) -> Ids:
        """How many classes of each item live. [items]"""
        items = self._solution.items
        counts = items.size - self._gone
        for whole, parts, sizes in items.compositions:
            left = counts[parts]
            if (left == sizes).all():  # so these are whole too
                continue
            partly = (left > 0) & (left < sizes)
            if (partly[0] & partly[1]).any():  # other places of the two may live
                return items.living(self.alive)
            share = left / sizes
            counts[whole] = np.rint(items.size[whole] * share[0] * share[1])
        return counts


def all_living(solution: Solution) -> Living:
    """Nothing is gone."""
    return Living(solution, np.zeros_like(solution.items.size), lambda: np.zeros(0, np.int64))
