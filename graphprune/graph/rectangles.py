"""Rectangles, every row of which has equally many living entries, as pieces of items.

What most questions are about is told by the items that rows run through; only where it is not, entries are looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from graphprune.graph.item_pieces import item_pieces, times_needed
from graphprune.graph.segments import CHUNK, ranges
from graphprune.graph.solve import Items, Solution
from graphprune.utils.arrays import Ids, Mask


@dataclass(frozen=True, eq=False)
class Rectangles:
    """The rectangles of one model.

    Attributes:
        items: the classes of their labels belong to these.
        labels: of each.
        columns: how many each has. [rectangles]
        start: the number of the first row of each, and behind the last one how many rows there are. [rectangles + 1]
        row, item: the pieces: the rows that they lie in, and the items that they are. [pieces]
        exact: which consist of whole items. [rectangles]
    """

    items: Items
    labels: Sequence[Ids]
    columns: Ids
    start: Ids
    row: Ids
    item: Ids
    exact: Mask

    @staticmethod
    def of(labels: Sequence[Ids], solution: Solution) -> Rectangles:
        """These rectangles. [rows, columns] each"""
        shapes = np.array([ids.shape for ids in labels], np.int64).reshape(-1, 2)
        start = np.concatenate([[0], shapes[:, 0].cumsum()])
        exact = shapes.prod(axis=1) > 0
        pieces = [np.zeros((2, 0), np.int64)]
        for members in _chunks(shapes):
            found = item_pieces(solution.of[np.concatenate([labels[i] for i in members])], solution.items)
            rows = ranges(start[members], shapes[members, 0])
            pieces.append(np.stack([rows[found.row], found.item]))
            exact[np.searchsorted(start, rows[found.cut], "right") - 1] = False
        row, item = np.concatenate(pieces, axis=1)
        order = np.argsort(row, kind="stable")
        return Rectangles(solution.items, labels, shapes[:, 1], start, row[order], item[order], exact)

    @cached_property
    def _of_row(self) -> Ids:
        """The number of the rectangle that a row belongs to. [rows]"""
        return np.repeat(np.arange(len(self.labels)), np.diff(self.start))

    @cached_property
    def _within(self) -> tuple[Ids, Ids]:
        """The items of units that not a whole row needs, by the numbers of the rectangles. [pairs] both"""
        row, item, times = times_needed(self.row, self.item, self.items)
        number = self._of_row[row]
        inner = times < self.columns[number]
        return number[inner], item[inner]

    def varying(self, selectable: Mask) -> Mask:
        """Of which may units go that not a whole row needs? [rectangles]

        Args:
            selectable: the units that may go. [classes]
        """
        number, item = self._within
        found = ~self.exact
        found[number[self.items.living(selectable)[item] > 0]] = True
        return found

    def uneven(self, alive: Mask) -> Iterator[Ids]:
        """The labels of those rows of which may keep other numbers of entries, or none where others keep some.

        Rows that are empty because one class is gone that all of their entries need are as they should be.

        Args:
            alive: which classes live.
        """
        living = self.items.living(alive)
        left = np.bincount(self.row, living[self.item], self.start[-1]).astype(np.int64)
        expected = np.zeros(len(self.labels), np.int64)
        np.maximum.at(expected, self._of_row, left)
        wrong = (left != expected[self._of_row]) & ((left > 0) | ~self._goes_whole(living))
        found = ~self.exact
        found[self._of_row[wrong]] = True
        return (self.labels[number] for number in np.flatnonzero(found).tolist())

    def _goes_whole(self, living: Ids) -> Mask:
        """The rows of which all pieces are composed with the same one class, which is gone. [rows]"""
        found = np.zeros(self.start[-1], bool)
        if not len(self.row):
            return found
        first = np.flatnonzero(np.diff(self.row, prepend=-1))
        for part in self.items.parts[self.item].T:
            gone = (part >= 0) & (self.items.size[part] == 1) & (living[part] == 0)
            same = np.minimum.reduceat(part, first) == np.maximum.reduceat(part, first)
            found[self.row[first]] |= same & np.logical_and.reduceat(gone, first)
        return found

    def ragged(self, alive: Mask) -> Iterator[Ids]:
        """The labels of those in which rows may keep different entries. ``alive`` [classes]"""
        living = self.items.living(alive)
        partly = (living > 0) & (living < self.items.size)
        left = np.bincount(self.row, living[self.item], self.start[-1])
        full = (left == 0) | (left == self.columns[self._of_row])
        found = ~self.exact
        found[self._of_row[~full]] = True
        found[self._of_row[self.row[partly[self.item]]]] = True
        return (self.labels[number] for number in np.flatnonzero(found).tolist())


def _chunks(shapes: Ids) -> Iterator[list[int]]:
    """The numbers of rectangles of one width, so many that their entries are looked at together."""
    waiting: dict[int, list[int]] = defaultdict(list)
    entries: dict[int, int] = defaultdict(int)
    for number, (rows, columns) in enumerate(shapes.tolist()):
        if rows * columns:
            waiting[columns].append(number)
            entries[columns] += rows * columns
        if entries[columns] > CHUNK:
            entries[columns] = 0
            yield waiting.pop(columns)
    yield from waiting.values()
