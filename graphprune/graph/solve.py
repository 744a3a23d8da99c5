"""Draw the conclusions from labelled facts: which labels are one, which are fixed, which consist of others.

Everything is whole-array work: unions are one call of ``connected_components``, and the rest are gathers. Labels
that live and die together form a *class*. A class is fixed (never removed), or *composed* of two others (it lives
where both live), or an *unit*: something that can be removed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from graphprune.rules.labels import Facts, Labels, Reason
from graphprune.utils.arrays import Ids, Mask

KINDS = ("channel", "filled", "row", "repeat", "cell", "expert")
"""Kinds of units; a class with labels of several kinds is of the last of them."""


_FREE = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Solution:
    """Classes of labels. ``of[label]`` is its class; class 0 is that of label 0.

    ``reason[c]`` is the index of the reason why class ``c`` is fixed, or -1. ``parts[c]`` are the two classes that a
    composed class consists of, or -1. ``levels`` orders the composed classes so that parts come first.
    """

    of: Ids
    reason: Ids
    parts: Ids
    kind: Ids
    levels: tuple[Ids, ...]

    @property
    def prunable(self) -> Mask:
        """Which classes can be removed."""
        return (self.reason < 0) & (self.parts[:, 0] < 0)

    def alive(self, removed: Ids) -> Mask:
        """For every class, whether it lives when the units ``removed`` are gone."""
        alive = np.ones(len(self.reason), bool)
        alive[removed] = False
        for level in self.levels:
            alive[level] = alive[self.parts[level, 0]] & alive[self.parts[level, 1]]
        return alive

    def expand(self, classes: Ids, *columns: Ids) -> tuple[Ids, ...]:
        """Replace composed classes by their units, and drop fixed ones; ``columns`` are carried along."""
        if not self.levels:
            kept = np.flatnonzero(self.reason[classes] < 0)
            return tuple(column[kept] for column in (classes, *columns))
        done: list[tuple[Ids, ...]] = []
        table = (classes, *columns)
        while len(table[0]):
            composed = self.parts[table[0], 0] >= 0
            finished = ~composed & (self.reason[table[0]] < 0)
            done.append(tuple(c[finished] for c in table))
            rest = tuple(c[composed] for c in table)
            table = tuple(
                np.concatenate([self.parts[rest[0], k] if i == 0 else c for k in (0, 1)]) for i, c in enumerate(rest)
            )
        if not done:
            return tuple(c[:0] for c in (classes, *columns))
        return tuple(np.concatenate(column) for column in zip(*done, strict=True))


def _broadcast_pairs(facts: Facts) -> tuple[Ids, Ids, list[tuple[Ids, int]]]:
    """All unions as two flat arrays; a union with label 0 is a fix, for the reason that label 0 is fixed."""
    left, right = [], []
    for a, b, _ in facts.unions:
        a, b = (a, b) if a.shape == b.shape else np.broadcast_arrays(a, b)
        left.append(a.ravel())
        right.append(b.ravel())
    if not left:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), []
    x, y = np.concatenate(left), np.concatenate(right)
    zero = (x == 0) | (y == 0)
    if not zero.any():
        return x, y, []
    return x[~zero], y[~zero], [(np.maximum(x, y)[zero], 0)]


def _composition(facts: Facts) -> Ids:
    rows = []
    for whole, first, second, _ in facts.parts:
        rows.append(np.stack([np.ravel(v) for v in np.broadcast_arrays(whole, first, second)], axis=1))
    table = np.concatenate(rows) if rows else np.zeros((0, 3), np.int64)
    found: Ids = table[table[:, 0] != 0]
    return found


def _components(count: int, x: Ids, y: Ids) -> Ids:
    graph = coo_array((np.ones(len(x), bool), (x, y)), shape=(count, count))
    found: Ids = connected_components(graph, directed=False)[1].astype(np.int64)
    return found


def solve(labels: Labels) -> Solution:
    """Close the facts: parts of equal labels are equal, parts of fixed labels are fixed."""
    facts = labels.facts
    x, y, zeros = _broadcast_pairs(facts)
    fixed = [(np.zeros(1, np.int64), 0), *((ids.ravel(), number) for ids, number in facts.fixed), *zeros]
    of = _components(labels.count, x, y)
    reason = _first_reason(of, fixed)
    table = of[_composition(facts)]
    while True:
        table, x, y = _one_composition_each(table)
        if not len(x):
            break
        merged = _components(len(reason), x, y)
        of, reason, table = merged[of], _merge_reason(merged, reason), merged[table]
    reason = _spread(reason, table)
    parts, levels, circular = _order(reason, table)
    if len(circular):
        facts.reasons.append(Reason("channels that would be part of themselves", labels.node_index))
        reason[circular] = len(facts.reasons) - 1
        reason = _spread(reason, table)
        parts, levels, _ = _order(reason, table)
    return Solution(of, reason, parts, _kinds(labels, of, len(reason)), levels)


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


def _first_reason(of: Ids, fixed: list[tuple[Ids, int]]) -> Ids:
    reason = np.full(of.max() + 1, _FREE, np.int64)
    for ids, number in fixed:
        np.minimum.at(reason, of[ids.ravel()], number)
    return np.where(reason == _FREE, -1, reason)


def _merge_reason(merged: Ids, reason: Ids) -> Ids:
    result = np.full(merged.max() + 1, _FREE, np.int64)
    np.minimum.at(result, merged, np.where(reason < 0, _FREE, reason))
    return np.where(result == _FREE, -1, result)


def _order(reason: Ids, table: Ids) -> tuple[Ids, tuple[Ids, ...], Ids]:
    """The parts of what is composed and not fixed, levels of composition, and the classes that would be circular."""
    parts = np.full((len(reason), 2), -1, np.int64)
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


def _kinds(labels: Labels, of: Ids, count: int) -> Ids:
    number = {kind: i for i, kind in enumerate(KINDS)}
    kinds = np.zeros(count, np.int64)
    sizes = [axis.size for axis in labels.axes]
    codes = np.repeat([number[axis.kind] for axis in labels.axes], sizes)
    np.maximum.at(kinds, of[1:], codes)
    for ids in labels.facts.maps:
        maps = of[ids.ravel()]
        kinds[maps[np.isin(kinds[maps], (number["row"], number["cell"]))]] = number["channel"]
    for ids, _, _ in labels.facts.choices:
        kinds[of[ids]] = number["expert"]
    return kinds
