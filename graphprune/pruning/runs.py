"""Indices as runs of consecutive numbers: short to write down, and checked before they are expanded."""

from __future__ import annotations

import re

import numpy as np

from graphprune.utils.arrays import Ids

_RUN = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")


class Runs:
    """From ``first[i]`` to ``last[i]``, both included, for every i. Both [runs]"""

    def __init__(self, first: Ids, last: Ids) -> None:
        self.first = first
        self.last = last

    @staticmethod
    def of(index: Ids) -> Runs:
        """The runs of some indices, in their order.

        >>> str(Runs.of(np.array([0, 1, 2, 7, 5, 6])))
        '0-2 7 5-6'
        """
        index = np.asarray(index, np.int64)
        if not len(index):
            return Runs(index, index)
        cuts = np.flatnonzero(np.diff(index) != 1)
        return Runs(index[np.append(0, cuts + 1)], index[np.append(cuts, len(index) - 1)])

    @staticmethod
    def parse(text: str) -> Runs:
        """The inverse of ``str``.

        Raises:
            ValueError: something in the text is no run, or ends before it begins.
        """
        bounds = np.array([_bounds(run) for run in text.split()], np.int64).reshape(-1, 2)
        return Runs(bounds[:, 0], bounds[:, 1])

    @property
    def count(self) -> int:
        """The number of indices."""
        return int((self.last - self.first + 1).sum())

    def check(self, size: int) -> None:
        """Raise a ValueError unless these are different indices of something that has ``size`` entries."""
        if not len(self.first):
            return
        order = np.argsort(self.first)
        first, last = self.first[order], self.last[order]
        if last.max() >= size:
            raise ValueError(f"found index {last.max()}, needed are indices below {size}")
        again = np.flatnonzero(first[1:] <= last[:-1])
        if len(again):
            raise ValueError(f"found index {first[again[0] + 1]} twice, needed is each index at most once")

    def indices(self) -> Ids:
        """All indices, in order."""
        lengths = self.last - self.first + 1
        before = np.cumsum(lengths) - lengths
        return np.repeat(self.first - before, lengths) + np.arange(self.count, dtype=np.int64)

    def __str__(self) -> str:
        ends = zip(self.first.tolist(), self.last.tolist(), strict=True)
        return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in ends)


def _bounds(run: str) -> tuple[int, int]:
    found = _RUN.fullmatch(run)
    if found is None:
        raise ValueError(f"found {run[:40]!r}, needed is an index such as '40' or a run such as '0-31'")
    first = int(found[1])
    last = first if found[2] is None else int(found[2])
    if last < first:
        raise ValueError(f"the run {run!r} ends before it begins")
    return first, last
