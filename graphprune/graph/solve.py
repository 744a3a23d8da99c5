"""Draw the conclusions from labeled facts: which labels are one, which are fixed, which consist of others.

Everything is whole-array work on runs of labels (:mod:`graphprune.graph.label_runs`): unions are one call of
``connected_components``, and the rest are gathers. Labels that live and die together form a *class*. A class is fixed
(never removed), or *composed* of two others (it lives where both live), or an *unit*: something that can be removed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from graphprune.graph.label_runs import CHOICES, MAPS, LabelRuns, find_runs
from graphprune.graph.segments import ranges
from graphprune.rules.labels import Labels, Reason
from graphprune.utils.arrays import Ids, Mask, distinct_columns, set_in_runs

ClassTable = NDArray[np.int16] | NDArray[np.int32]
"""A number for each class: of another class, or of a reason."""
KINDS = ("channel", "filled", "row", "repeat", "cell", "expert")
"""Kinds of units; a class with labels of several kinds is of the last of them."""


_FREE = np.iinfo(np.int64).max


class Classes:
    """The class of every label: ``classes[ids]``.

    Args:
        start: the first labels of runs, in order. [runs]
        first: their classes; those of the labels that follow are the numbers that follow. [runs]
    """

    def __init__(self, start: Ids, first: Ids) -> None:
        going_on = np.diff(start, prepend=-1) == np.diff(first, prepend=-1)
        going_on[0] = False
        self._start = start[~going_on]
        self._rise = (first - start)[~going_on]

    def __getitem__(self, ids: Ids) -> Ids:
        if not ids.size:
            return ids.astype(np.int64)
        least, most = np.minimum.reduce(ids, axis=None), np.maximum.reduce(ids, axis=None)
        first, last = (self._start.searchsorted((least, most), "right") - 1).tolist()
        if first == last:
            found: Ids = ids + self._rise[first]
            return found
        known = self._start[first : last + 1]
        rise: Ids = self._rise[first : last + 1][known.searchsorted(ids, "right") - 1]
        return ids + rise

    def of_range(self, start: int, size: int) -> Ids:
        """The classes of labels that follow one another, one or more."""
        first, last = (self._start.searchsorted((start, start + size - 1), "right") - 1).tolist()
        if first == last:
            rise = int(self._rise[first])
            return np.arange(start + rise, start + rise + size)
        return self[np.arange(start, start + size)]


@dataclass(frozen=True)
class ItemOccurrences:
    """Item ``item[r]`` is needed by ``size[r]`` entries of axis ``axis[r]`` from ``index[r]`` on, in runs.

    Each of its classes is needed by one of them, or its only class by all.
    """

    item: Ids
    axis: Ids
    index: Ids
    size: Ids


class Composition(NamedTuple):
    """Items that are composed of two others.

    Attributes:
        whole: themselves. [wholes]
        parts: the two that each consists of. [2, wholes]
        sizes: of the parts. [2, wholes]
    """

    whole: Ids
    parts: Ids
    sizes: Ids


@dataclass(frozen=True)
class Items:
    """LabelRuns of classes that are alike: their numbers follow one another, and so do those of their parts.

    Attributes:
        first: the first class. [items]
        size: how many classes. [items]
        reason: why they are fixed, or -1. [items]
        parts: the two items that composed ones consist of, or -1; one of size 1 is a part of all. [items, 2]
        kind: their kind. [items]
        levels: the composed items, so that parts come first.
        axis, index, of: the runs of the labels of each axis: the number of the axis, the number of the first label in
            it, and the item that these labels are. [runs]
    """

    first: Ids
    size: Ids
    reason: Ids
    parts: Ids
    kind: Ids
    levels: tuple[Ids, ...]
    axis: Ids
    index: Ids
    of: Ids

    def classes(self, items: Ids) -> Ids:
        """The classes of items, one after the other."""
        if len(items) == 1:
            return np.arange(self.first[items[0]], self.first[items[0]] + self.size[items[0]])
        return ranges(self.first[items], self.size[items])

    @cached_property
    def _bounds(self) -> list[int]:
        """Where the runs of each axis begin, and the last ones end. [axes + 1]"""
        count = int(self.axis[-1]) + 1
        found: list[int] = self.axis.searchsorted(np.arange(count + 1)).tolist()
        return found

    def of_axis(self, number: int) -> Ids:
        """The items that the labels of an axis consist of, in their order."""
        found: Ids = self.of[self._bounds[number] : self._bounds[number + 1]]
        return found

    def item_of(self, classes: Ids | NDArray[np.int32]) -> Ids:
        """The items of classes."""
        if not classes.size:
            return classes.astype(np.int64)
        ends = np.minimum.reduce(classes, axis=None), np.maximum.reduce(classes, axis=None)
        first, last = (self.first.searchsorted(ends, "right") - 1).tolist()
        found: Ids = self.first[first : last + 1].searchsorted(classes, "right") + (first - 1)
        return found

    def living(self, alive: Mask) -> Ids:
        """How many classes of each item live. [items]"""
        return set_in_runs(alive, self.first)

    @cached_property
    def compositions(self) -> tuple[Composition, ...]:
        """The two parts of the items of each level."""
        return tuple(Composition(level, self.parts[level].T, self.size[self.parts[level].T]) for level in self.levels)

    def units(self, items: Ids, *columns: Ids) -> tuple[Ids, ...]:
        """Replace composed items by what they are composed of, and drop fixed ones; ``columns`` are carried along."""
        table: tuple[Ids, ...] = (items, *columns)
        done: list[tuple[Ids, ...]] = []
        while len(table[0]) or not done:
            composed = self.parts[table[0], 0] >= 0
            finished = ~composed & (self.reason[table[0]] < 0)
            done.append(tuple(column[finished] for column in table))
            item, *rest = (column[composed] for column in table)
            table = np.concatenate([self.parts[item, 0], self.parts[item, 1]]), *(np.tile(c, 2) for c in rest)
        return tuple(np.concatenate(column) for column in zip(*done, strict=True))

    def occurrences(self, numbers: Ids) -> ItemOccurrences:
        """Where units stand in axes, in the order of these and of what they are composed of.

        Args:
            numbers: of the axes; -1: left out. [axes]
        """
        here = np.flatnonzero(self.axis >= 0)  # a network without parameters has no axes
        here = here[numbers[self.axis[here]] >= 0]
        found = self.units(self.of[here], numbers[self.axis[here]], self.index[here], self.size[self.of[here]])
        order = np.argsort(found[1], kind="stable")
        return ItemOccurrences(*(column[order] for column in found))


@dataclass(frozen=True)
class Solution:
    """Classes of labels. ``of[label]`` is its class; class 0 is that of label 0."""

    of: Classes
    items: Items

    @cached_property
    def count(self) -> int:
        """How many classes there are."""
        return int(self.items.size.sum())

    @cached_property
    def kind(self) -> NDArray[np.int8]:
        """The place in :data:`KINDS`. [classes]"""
        return np.repeat(self.items.kind.astype(np.int8), self.items.size)

    @cached_property
    def prunable(self) -> Mask:
        """Which classes can be removed. [classes]"""
        return np.repeat((self.items.reason < 0) & (self.items.parts[:, 0] < 0), self.items.size)

    @cached_property
    def repeated_rows(self) -> Mask:
        """The repeats that rows are composed with: query heads, and no entries that repeat within a head. [classes]"""
        items = self.items
        whole = np.flatnonzero(items.parts[:, 0] >= 0)
        found = np.zeros(len(items.size), bool)
        for one, other in (items.parts[whole].T, items.parts[whole].T[::-1]):
            found[one[(items.kind[one] == KINDS.index("repeat")) & (items.kind[other] == KINDS.index("row"))]] = True
        return np.repeat(found, items.size)

    def reason_of(self, classes: Ids) -> Ids:
        """The number of the reason why each of these classes is fixed, or -1."""
        return self.items.reason[self.items.item_of(classes)]

    def parts_of(self, classes: Ids) -> Ids:
        """The two classes that each of these consists of, or -1. [..., 2]"""
        items, item = self.items, self.items.item_of(classes)
        parts = items.parts[item]
        found = items.first[parts] + np.where(items.size[parts] > 1, (classes - items.first[item])[..., None], 0)
        return np.where(parts >= 0, found, -1)

    def alive(self, removed: Ids) -> Mask:
        """For every class, whether it lives when the units ``removed`` are gone."""
        items = self.items
        alive = np.ones(self.count, bool)
        alive[removed] = False
        short = items.living(alive) < items.size
        for level in items.levels:
            here = level[short[level] | short[items.parts[level]].any(axis=1)]
            size = items.size[here]
            place = ranges(np.zeros_like(size), size)
            lives = [
                alive[np.repeat(items.first[part], size) + np.where(np.repeat(items.size[part] > 1, size), place, 0)]
                for part in items.parts[here].T
            ]
            alive[ranges(items.first[here], size)] = lives[0] & lives[1]
            short[here] = True
        return alive

    def expand(self, classes: Ids, *columns: Ids) -> tuple[Ids, ...]:
        """Replace composed classes by their units, and drop fixed ones; ``columns`` are carried along."""
        items, item = self.items, self.items.item_of(classes)
        if not items.levels:
            kept = np.flatnonzero(items.reason[item] < 0)
            return tuple(column[kept] for column in (classes, *columns))
        done: list[tuple[Ids, ...]] = []
        table: tuple[Ids, ...] = (item, classes - items.first[item], *columns)
        while len(table[0]) or not done:
            composed = items.parts[table[0], 0] >= 0
            finished = np.flatnonzero(~composed & (items.reason[table[0]] < 0))
            done.append(tuple(column[finished] for column in table))
            rest = np.flatnonzero(composed)
            item, place, *others = (column[rest] for column in table)
            part = items.parts[item].T.ravel()
            place = np.where(items.size[part] > 1, np.tile(place, 2), 0)
            table = part, place, *(np.tile(column, 2) for column in others)
        item, place, *others = (np.concatenate(column) for column in zip(*done, strict=True))
        return items.first[item] + place, *others

    def goes_whole(self, row: Ids, alive: Mask) -> bool:
        """Is one class gone that all of these need? ``row``: classes, ``alive``: which live."""
        unit, entry = self.expand(row, np.arange(len(row)))
        gone = distinct_columns(np.stack([unit, entry])[:, ~alive[unit]])[0]
        return bool((np.unique(gone[0], return_counts=True)[1] == len(row)).any())

    def too_few(self, rows: Ids, least: int, alive: Mask) -> Ids:
        """The rows of which fewer than ``least`` classes live, but for those of several that go whole."""
        short: Ids = rows[alive[rows].sum(axis=1) < least]
        if len(rows) > 1:
            short = short[[not self.goes_whole(row, alive) for row in short]]
        return short


def solve(labels: Labels) -> Solution:
    """Close the facts: parts of equal labels are equal, parts of fixed labels are fixed."""
    runs, table = _closed(labels)
    known = runs.notes >= 0
    reason = _first_reason(len(runs.size), runs.noted[known], runs.notes[known])
    reason = _spread(reason, table)
    parts, levels, circular = _order(reason, table)
    facts = labels.facts
    if len(circular):
        facts.reasons.append(Reason("channels that would be part of themselves", labels.node_index))
        reason[circular] = len(facts.reasons) - 1
        reason = _spread(reason, table)
        parts, levels, _ = _order(reason, table)
    first = np.cumsum(runs.size) - runs.size
    index = runs.start - np.array([0, *[axis.start for axis in labels.axes]])[runs.axis]
    items = Items(first, runs.size, reason, parts, _kinds(labels, runs, parts), levels, runs.axis - 1, index, runs.item)
    return Solution(Classes(runs.start, first[runs.item]), items)


def _closed(labels: Labels) -> tuple[LabelRuns, Ids]:
    """The runs, and one composition of each composed one. [composed, 3]"""
    apart = np.zeros(0, np.int64)
    runs = find_runs(labels, apart)
    while True:
        table, x, y = _one_composition_each(runs.parts)
        if not len(x):
            return runs, table
        uneven = runs.size[x] != runs.size[y]
        if uneven.any():  # all labels of a run are one
            apart = np.concatenate([apart, runs.labels(np.concatenate([x[uneven], y[uneven]]))])
            runs = find_runs(labels, apart)
        else:
            runs = runs.merged(x, y)


def _one_composition_each(table: Ids) -> tuple[Ids, Ids, Ids]:
    """Keep one composition of every class; the parts of its others are equal to that one's parts."""
    table = table[np.argsort(table[:, 0], kind="stable")]
    new = np.ones(len(table), bool)
    new[1:] = table[1:, 0] != table[:-1, 0]
    kept = table[new]
    same = kept[np.cumsum(new) - 1]
    x, y = table[:, 1:].ravel(), same[:, 1:].ravel()
    differ = x != y
    return kept, x[differ], y[differ]


def _spread(reason: Ids, table: Ids) -> Ids:
    """The parts of fixed classes are fixed, for the same reason."""
    reason = reason.copy()
    whole, *both = table.T
    while True:
        before = reason.copy()
        for part in both:
            free = (reason[whole] >= 0) & (reason[part] < 0)
            reason[part[free]] = reason[whole[free]]
        if (before == reason).all():
            return reason


def _first_reason(count: int, noted: Ids, numbers: Ids) -> Ids:
    """The least number of a reason why each item is fixed, or -1. The first item is that of label 0."""
    reason = np.full(count, _FREE, np.int64)
    reason[0] = 0
    np.minimum.at(reason, noted, numbers)
    return np.where(reason == _FREE, -1, reason)


def _order(reason: Ids, table: Ids) -> tuple[Ids, tuple[Ids, ...], Ids]:
    """The parts of what is composed and not fixed, levels of composition, and the classes that would be circular."""
    parts = np.full((len(reason), 2), -1, np.int64)
    whole, first, second = table.T
    alone = ((first == whole) & (reason[second] >= 0)) | ((second == whole) & (reason[first] >= 0))
    table = table[~alone]  # what is composed of itself and of what is always there is not composed
    parts[table[:, 0]] = table[:, 1:]
    parts[reason >= 0] = -1
    composed = parts[:, 0] >= 0
    known = ~composed
    levels = []
    while composed.any():
        ready = np.flatnonzero(composed & known[parts[:, 0]] & known[parts[:, 1]])
        if not len(ready):
            break
        levels.append(ready)
        known[ready] = True
        composed[ready] = False
    return parts, tuple(levels), np.flatnonzero(composed)


def _kinds(labels: Labels, runs: LabelRuns, parts: Ids) -> Ids:
    """The kind of each item. Channels along which something was expanded, a mask say, are no repeats of anything."""
    number = {kind: i for i, kind in enumerate(KINDS)}
    kinds = np.zeros(len(runs.size), np.int64)
    codes = np.array([0, *[number[axis.kind] for axis in labels.axes]])
    np.maximum.at(kinds, runs.item, codes[runs.axis])
    maps = runs.noted[runs.notes == MAPS]
    kinds[maps[np.isin(kinds[maps], (number["row"], number["cell"]))]] = number["channel"]
    alone = kinds == number["repeat"]
    alone[parts[parts >= 0]] = False
    kinds[alone] = number["channel"]
    kinds[runs.noted[runs.notes == CHOICES]] = number["expert"]
    return kinds
