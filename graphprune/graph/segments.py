"""Facts about consecutive labels as one row each.

A dimension that only moves as a whole is one row, whatever its size, and so is a head of an attention: work grows with
the number of such runs and not with the number of channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from graphprune.utils.arrays import Ids, Mask

Patterns = NDArray[np.int8]
CHUNK = 1 << 20
"""So many entries of arrays are looked at together."""


class Segments(NamedTuple):
    """Row ``r`` is about labels ``start[r] + i * step[r]``, one for each column, for every ``i < size[r]``.

    Attributes:
        start: the first labels. [rows, columns]
        step: 1 where labels go on, 0 where it is one label; in rows of size 1 always 0. [rows, columns]
        size: how many labels. [rows]
        note: a number that belongs to the row. [rows]
    """

    start: Ids
    step: Ids
    size: Ids
    note: Ids

    def rows(self, which: Ids | Mask) -> Segments:
        """Some of the rows."""
        return Segments(*(part[which] for part in self))

    def moved(self, shift: Ids) -> Segments:
        """The same rows about other labels; ``shift`` is added. [rows, columns]"""
        return self._replace(start=self.start + shift)

    def ends(self) -> Ids:
        """The label behind the last one of each column. [rows, columns]"""
        return self.start + np.where(self.step > 0, self.size[:, None], 1)

    def cut(self, points: Ids) -> Segments:
        """Rows none of which runs across a point.

        Args:
            points: labels at which something begins, in order.
        """
        found = self
        for column in range(self.start.shape[1]):
            found = found._cut_column(points, column)
        return found

    def cuts(self, points: Ids, column: int) -> tuple[Ids, Ids]:
        """By row the number of the first point within its labels of a column, and how many there are."""
        start = self.start[:, column]
        first = np.searchsorted(points, start, "right")
        inside = np.searchsorted(points, start + self.size, "left") - first
        return first, np.where(self.step[:, column] > 0, inside, 0)

    def _cut_column(self, points: Ids, column: int) -> Segments:
        first, inside = self.cuts(points, column)
        if not inside.any():
            return self
        rows: Ids = np.repeat(np.arange(len(inside)), inside + 1)
        place = np.arange(len(rows)) - np.repeat(np.cumsum(inside + 1) - inside - 1, inside + 1)
        at: Ids = np.where(place > 0, points[np.maximum(first[rows] + place - 1, 0)] - self.start[rows, column], 0)
        last = np.append(place[1:] == 0, True)
        size: Ids = np.where(last, self.size[rows], np.append(at[1:], 0)) - at
        step: Ids = self.step[rows] * (size > 1)[:, None]
        return Segments(self.start[rows] + at[:, None] * self.step[rows], step, size, self.note[rows])

    def labels(self) -> Ids:
        """All labels, with repetitions."""
        return ranges(self.start.ravel(), (self.ends() - self.start).ravel())


def ranges(start: Ids, size: Ids) -> Ids:
    """The numbers of several ranges, one after the other."""
    found: Ids = (start - size.cumsum() + size).repeat(size)
    return found + np.arange(len(found))


class SegmentTable:
    """Collects arrays of labels and finds the segments that they consist of.

    Args:
        columns: how many labels a row is about at once.
        together: all columns go on together, or none does. Otherwise those after the first may stay behind.
    """

    def __init__(self, columns: int, together: bool = False) -> None:
        self._columns = columns
        self._together = together
        self._arrays: list[list[Ids]] = [[] for _ in range(columns)]
        self._notes: list[tuple[int, int]] = []
        self._waiting = 0
        self._ranges: list[tuple[tuple[int, ...], int]] = []
        self._found: list[Segments] = []

    def add(self, *arrays: Ids, note: int = 0) -> None:
        """Rows about the labels at the same places of arrays, which are broadcast."""
        shapes = {array.shape for array in arrays}
        if len(shapes) > 1:
            arrays = tuple(np.broadcast_arrays(*arrays))
        for held, array in zip(self._arrays, arrays, strict=True):
            held.append(array.ravel())
        self._notes.append((note, arrays[0].size))
        self._waiting += arrays[0].size
        if self._waiting > CHUNK:
            self._look()

    def add_range(self, *starts: int, size: int) -> None:
        """One row about consecutive labels, from these on."""
        self._ranges.append((starts, size))

    def found(self) -> Segments:
        """The segments: those of arrays in the order in which they were added, then ranges."""
        self._look()
        if self._ranges:
            self._found.append(_whole_segments(self._ranges))
            self._ranges = []
        if not self._found:
            none = np.zeros((0, self._columns), np.int64)
            return Segments(none, none, none[:, 0], none[:, 0])
        return Segments(*map(np.concatenate, zip(*self._found, strict=True)))

    def _look(self) -> None:
        if self._waiting:
            columns = [np.concatenate(held) for held in self._arrays]
            notes, sizes = np.array(self._notes).T
            self._found.append(_segments_of(columns, np.repeat(notes, sizes), self._together))
        self._arrays = [[] for _ in range(self._columns)]
        self._notes, self._waiting = [], 0


def _whole_segments(given: Sequence[tuple[tuple[int, ...], int]]) -> Segments:
    start, size = np.array([starts for starts, _ in given]), np.array([size for _, size in given])
    step = np.repeat((size > 1).astype(np.int64)[:, None], start.shape[1], axis=1)
    return Segments(start, step, size, np.zeros_like(size))


def _segments_of(columns: Sequence[Ids], note: Ids, together: bool) -> Segments:
    """The segments of arrays of one length."""
    pattern = _patterns(columns, together)
    pattern[note[1:] != note[:-1]] = -1
    first = np.concatenate([[0], np.flatnonzero(_ends(pattern)) + 1])
    size = np.diff(first, append=len(note))
    known = pattern[np.minimum(first, len(pattern) - 1)] if len(pattern) else np.zeros(1, np.int8)
    step = ((known[:, None] >> np.arange(len(columns))) & 1).astype(np.int64)
    step[size == 1] = 0
    size[step[:, 0] == 0] = 1  # the same labels once more
    start = np.stack([column[first] for column in columns], axis=1).astype(np.int64)
    return Segments(start, step, size, note[first])


def _patterns(columns: Sequence[Ids], together: bool) -> Patterns:
    """From place to place, which columns go on, as bits; -1 where no segment can go on. [places - 1]"""
    pattern = np.zeros(len(columns[0]) - 1, np.int8)
    possible = np.ones(len(pattern), bool)
    for number, column in enumerate(columns):
        rise = np.diff(column)
        goes_on = rise == 1
        possible &= goes_on | (rise == 0)
        pattern |= goes_on.astype(np.int8) << number
    all_go_on = (1 << len(columns)) - 1
    possible &= (pattern == 0) | (pattern == all_go_on if together else pattern & 1 > 0)
    pattern[~possible] = -1
    return pattern


def _ends(pattern: Patterns) -> Mask:
    """Where segments end, if each goes on as long as the pattern stays. [places - 1]

    The step from one segment to the next belongs to none: it uses up the first place of the pattern that follows.
    """
    if not len(pattern):
        return np.zeros(0, bool)
    start = np.concatenate([[0], np.flatnonzero(np.diff(pattern)) + 1])
    length = np.diff(start, append=len(pattern))
    broken = pattern[start] < 0
    number = np.arange(len(start))
    known = np.maximum.accumulate(np.where(broken | (length > 1), number, -1))
    before = np.concatenate([[-1], known[:-1]])  # the last of which it does not matter whether its first place is used
    used = ((before >= 0) & ~broken[before]) ^ ((number - 1 - before) % 2 == 1)
    ends = np.repeat(broken, length)
    ends[start[used & ~broken]] = True
    found: Mask = ends
    return found
