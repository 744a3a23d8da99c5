"""All stops of all removal paths in the order of removal, without sorting them all.

A search asks what is gone after the first so many stops, a few dozen times for one order. Stops of a path are in order
already, so only every so many of them are sorted; between two of these there are few enough to be sorted when they are
asked for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from graphprune.graph.segments import ranges
from graphprune.utils.arrays import Ids, Scores

STRIDE = 64
"""Of so many stops of a path one is sorted, or of fewer where paths are short."""


@dataclass(frozen=True, eq=False)
class RemovalOrder:
    """Stops by rising priority; equal ones by the number of their path, and those of a path in their own order.

    Attributes:
        values: when the stops come, path by path, rising within each. [stops]
        start: the first stop of each path in ``values``. [paths]
        lengths: how many stops of each path there are. [paths]
        stride: of so many stops of a path the first is a sample.
        path, place: the samples in the order of removal: their paths, and their places among the stops of these.
            [samples]
        begun: of each path, how many stops come before all others. [paths]
    """

    values: Scores
    start: Ids
    lengths: Ids
    stride: int
    path: Ids
    place: Ids
    begun: Ids

    @staticmethod
    def of(priority: Iterable[Scores], lengths: Ids) -> RemovalOrder:
        """The order of stops.

        Args:
            priority: for each path, how early each of its stops comes: low values first, but none before the stops that
                precede it. They are as large as all else together: taken one by one, they need not all be there.
                [stops] each
            lengths: how many stops each path has. [paths]
        """
        start, values = lengths.cumsum() - lengths, np.empty(lengths.sum())
        for first, own in zip(start.tolist(), priority, strict=True):
            np.maximum.accumulate(own, out=values[first : first + len(own)])
        stride = max(min(STRIDE, int(np.sqrt(len(values) / max(2 * len(lengths), 1)))), 1)
        samples = -(-lengths // stride)
        path, place = np.repeat(np.arange(len(lengths)), samples), ranges(np.zeros_like(samples), samples) * stride
        order = np.argsort(values[start[path] + place], kind="stable")
        return RemovalOrder(values, start, lengths, stride, path[order], place[order], np.zeros_like(lengths))

    def __len__(self) -> int:
        return int(self.lengths.sum())

    def after(self, count: int) -> Ids:
        """How many stops of each path are among the first ``count``. [paths]"""
        paths, stride = len(self.lengths), self.stride
        before, behind = count // stride, -(-(count + (stride - 1) * paths) // stride)
        sure, possible = (np.bincount(self.path[:samples], minlength=paths) for samples in (before, behind))
        found: Ids = np.where(sure > 0, (sure - 1) * stride + 1, 0)
        left = np.minimum(possible * stride, self.lengths) - found
        order = np.argsort(self.values[ranges(self.start + found, left)], kind="stable")
        first = np.repeat(np.arange(paths), left)[order[: count - int(found.sum())]]
        passed: Ids = np.maximum(found + np.bincount(first, minlength=paths), self.begun)
        return passed

    def path_of(self, number: int) -> int:
        """The path of a stop, by its number in the order."""
        return int((self.after(number + 1) - self.after(number)).argmax())

    def without(self, path: int, count: int) -> RemovalOrder:
        """The order without the stops of a path that are not among the first ``count`` of all."""
        lengths = self.lengths.copy()
        lengths[path] = self.after(count)[path]
        kept = (self.path != path) | (self.place < lengths[path])
        return replace(self, lengths=lengths, path=self.path[kept], place=self.place[kept])

    def beginning_with(self, path: int, number: int) -> RemovalOrder:
        """The order that begins with a stop, the last of its path among so many and one, and those before it."""
        begun = self.begun.copy()
        begun[path] = self.after(number + 1)[path]
        return replace(self, begun=begun)

    def unevenness(self, passed: Ids) -> float:
        """How far paths are from being within one step of one place in the order; 0 if all of them are.

        Args:
            passed: how many stops of each path are passed. [paths]
        """
        begun, going = passed > 1, passed < self.lengths
        before, after = (self.start + passed - 2)[begun], (self.start + passed)[going]
        return max(float(self.values[before].max(initial=0.0)) - float(self.values[after].min(initial=np.inf)), 0.0)
