"""Runs of labels that every fact treats alike.

The labels of all axes are cut where some fact begins or ends, until no fact is about a part of a run. Labels of equal
runs are one, place by place; so a solution is worked out for runs, of which there are few, and not for labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from graphprune.graph.segments import Segments, SegmentTable, ranges
from graphprune.rules.labels import Labels
from graphprune.utils.arrays import Ids, Mask, distinct

CUTTING_ROUNDS = 16
"""How often runs are cut where others were cut before all that is still cut falls into single labels."""
MAPS, CHOICES = -1, -2
"""Notes of labels that are fixed by no reason: channels that stand for maps, and experts."""


class SegmentedFacts(NamedTuple):
    """What rules wrote down, by runs.

    Attributes:
        unions: two labels that are one.
        parts: a label, and the two that it lives with.
        noted: labels, with the number of the reason why they are fixed, or :data:`MAPS` or :data:`CHOICES`.
    """

    unions: Segments
    parts: Segments
    noted: Segments


@dataclass(frozen=True)
class LabelRuns:
    """Runs of labels; those that are equal are one *item*.

    Attributes:
        start: the first label of every run. [runs]
        item: the number of the item that it is. [runs]
        axis: the number of the axis that it lies in, from 1 on; 0 for label 0. [runs]
        size: how many labels a run of this item has. [items]
        parts: an item, and the two that it lives with, place by place; all of its labels live with a part of size 1.
            [compositions, 3]
        noted: items. [notes]
        notes: what is said of them. [notes]
    """

    start: Ids
    item: Ids
    axis: Ids
    size: Ids
    parts: Ids
    noted: Ids
    notes: Ids

    def labels(self, items: Ids) -> Ids:
        """The labels of these items, in one run of each."""
        first = np.zeros(len(self.size), np.int64)
        first[self.item[::-1]] = self.start[::-1]
        return ranges(first[items], self.size[items])

    def merged(self, x: Ids, y: Ids) -> LabelRuns:
        """The runs if these items are equal too."""
        of = components(len(self.size), x, y)
        size = np.zeros(of.max() + 1, np.int64)
        size[of] = self.size
        return LabelRuns(self.start, of[self.item], self.axis, size, of[self.parts], of[self.noted], self.notes)


def components(count: int, x: Ids, y: Ids) -> Ids:
    """Numbers of connected components, in the order of their first members. [count]"""
    graph = coo_array((np.ones(len(x), bool), (x, y)), shape=(count, count))
    found: Ids = connected_components(graph, directed=False)[1].astype(np.int64)
    return found


def find_runs(labels: Labels, apart: Ids) -> LabelRuns:
    """The runs of all labels.

    Args:
        labels: with the facts about them.
        apart: labels that are runs of their own.
    """
    bounds = np.array([0, *[axis.start for axis in labels.axes], labels.count])
    facts = SegmentedFacts(*(table.cut(bounds) for table in _facts(labels)))
    origin = _equal_axes(facts.unions, bounds)
    shift = bounds[origin] - bounds[:-1]
    facts = SegmentedFacts(*(_moved(table, bounds, shift) for table in facts))
    apart = apart + shift[_axis_of(bounds, apart)]
    points = distinct([bounds, apart, apart + 1])
    facts, points = _cut(facts, points)
    return _numbered(facts, points, bounds, origin)


def _facts(labels: Labels) -> SegmentedFacts:
    """All facts as segments; a union with label 0 is a fix, for the reason that label 0 is fixed."""
    unions, parts, noted = SegmentTable(2, together=True), SegmentTable(3), SegmentTable(1)
    facts = labels.facts
    for a, b, _ in facts.unions:
        starts = (labels.first_of_all(a), labels.first_of_all(b)) if a.shape == b.shape else (None, None)
        if starts[0] is not None and starts[1] is not None:
            unions.add_range(starts[0], starts[1], size=a.size)
        else:
            _add_union(unions, noted, *np.broadcast_arrays(a, b))
    for whole, first, second, _ in facts.parts:
        parts.add(whole, first, second)
    for ids, number in facts.fixed:
        noted.add(ids, note=number)
    for ids in facts.maps:
        noted.add(ids, note=MAPS)
    for ids in facts.chosen:
        noted.add(ids, note=CHOICES)
    found = parts.found()
    return SegmentedFacts(unions.found(), found.rows(found.start[:, 0] != 0), noted.found())


def _add_union(unions: SegmentTable, noted: SegmentTable, a: Ids, b: Ids) -> None:
    zero = (a == 0) | (b == 0)
    if zero.any():
        noted.add(np.maximum(a, b)[zero])
        a, b = a[~zero], b[~zero]
    unions.add(a, b)


def _axis_of(bounds: Ids, labels: Ids) -> Ids:
    found: Ids = np.searchsorted(bounds, labels, "right") - 1
    return found


def _equal_axes(unions: Segments, bounds: Ids) -> Ids:
    """For every axis the first one that is equal to it as a whole. [axes]"""
    axes = _axis_of(bounds, unions.start)
    whole = (unions.size[:, None] == np.diff(bounds)[axes]).all(axis=1)
    of = components(len(bounds) - 1, *axes[whole].T)
    first = np.zeros(of.max() + 1, np.int64)
    first[of[::-1]] = np.arange(len(of))[::-1]
    return first[of]


def _moved(table: Segments, bounds: Ids, shift: Ids) -> Segments:
    """The table about the labels of the first axes instead of those equal to them."""
    return table.moved(shift[_axis_of(bounds, table.start)])


def _cut(facts: SegmentedFacts, points: Ids) -> tuple[SegmentedFacts, Ids]:
    """The facts, cut at all points, and points at all their ends."""
    number = 0
    while True:
        facts = SegmentedFacts(*(table.cut(points) for table in facts))
        ends = [part.ravel() for table in facts for part in (table.start, table.ends())]
        found = distinct([points, *ends])
        if len(found) == len(points):
            return facts, points
        number += 1
        if number > CUTTING_ROUNDS:
            found = distinct([found, *(_still_cut(table, found) for table in facts)])
        points = found


def _still_cut(table: Segments, points: Ids) -> Ids:
    """All labels of rows that run across points."""
    inside: Mask = np.zeros(len(table.size), bool)
    for column in range(table.start.shape[1]):
        inside |= table.cuts(points, column)[1] > 0
    return table.rows(inside).labels()


def _numbered(facts: SegmentedFacts, points: Ids, bounds: Ids, origin: Ids) -> LabelRuns:
    """The runs between points, of all axes, and the facts by the numbers of their items."""
    place = {name: np.searchsorted(points, table.start) for name, table in facts._asdict().items()}
    axis = _axis_of(bounds, points[:-1])
    used = origin[axis] == axis
    of = np.where(used, components(len(axis), *place["unions"].T), -1)
    item = np.full(of.max() + 1, -1, np.int64)
    item[of[used]] = np.unique(of[used], return_inverse=True)[1]
    of = np.where(used, item[of], -1)
    size = np.zeros(of.max() + 1, np.int64)
    size[of[used]] = np.diff(points)[used]
    first, last = np.searchsorted(points, bounds[origin]), np.searchsorted(points, bounds[origin + 1])
    runs = ranges(first, last - first)
    axis = np.repeat(np.arange(len(origin)), last - first)
    start = points[runs] + bounds[axis] - bounds[origin[axis]]
    notes = facts.noted.note
    return LabelRuns(start, of[runs], axis, size, of[place["parts"]], of[place["noted"][:, 0]], notes)
