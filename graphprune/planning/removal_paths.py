"""In which order units go: for each coupled step a path of stops, and what is lost from stop to stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from graphprune.graph.coupled_steps import CoupledStep
from graphprune.graph.solve import Items
from graphprune.utils.arrays import Ids, Mask, Scores, distinct, stable_order

Numbers = NDArray[np.int32]
"""Numbers of stops and units; there are few enough for 4 bytes each."""
ROOM = 4
"""A table of what is gone may have so many entries for every unit."""


@dataclass(frozen=True, eq=False)
class RemovalPath:
    """One coupled step, repeated: how many times it may be taken, and what goes each time.

    Attributes:
        coupled: the units that go together.
        stops: the numbers of repetitions that are allowed, increasing, without 0. [stops]
        unit_ids: the units that are gone at the last stop. [units]
        stop: the stop at which each of them goes. [units]
        values: the scores of the units of each part.
        lost: the importance lost between the stop before and each stop, see :func:`make_path`. [stops]
    """

    coupled: CoupledStep
    stops: Ids
    unit_ids: Numbers
    stop: Numbers
    values: Sequence[Scores]
    lost: Scores

    @property
    def scores(self) -> Scores:
        """The mean score of the units that go at each stop. [stops]"""
        going = [v[_going(v, each, self.stops)] for v, each in zip(self.values, self.coupled.each, strict=True)]
        ends = np.cumsum([len(own) for own in going])[:-1]
        count = len(self.stops)
        total = np.zeros(count)
        for own, stop in zip(going, np.split(self.stop, ends), strict=True):
            total += np.bincount(stop, own, count)
        found: Scores = total / np.maximum(np.bincount(self.stop, minlength=count), 1)
        return found

    @property
    def gone(self) -> Scores:
        """The mean fraction of the parts that is gone at each stop. [stops]"""
        found, parts = np.zeros(len(self.stops)), self.coupled.parts
        for part, each in zip(parts, self.coupled.each, strict=True):
            found += each * self.stops / len(part.unit_ids) / len(parts)
        return found


def make_path(
    coupled: CoupledStep, stops: Ids, scores: Sequence[Scores], layers: Sequence[int], additive: bool = False
) -> RemovalPath:
    """The path of one coupled step; units of the lowest score go first.

    What is lost grows as the importance that is kept shrinks: with the share ``r`` kept, every layer that a part runs
    through has lost ``mean score * (1 / r**2 - 1)``. A plain sum of scores would empty the groups that cost most;
    weighted by layers, so that the width of a residual stream counts in every block, this was as good as uniform
    pruning or better on trained networks (see docs/design.md). Scores that were worked out one after another say
    themselves how losses grow, and are summed.

    Args:
        coupled: the units that go together.
        stops: the numbers of repetitions that are allowed, without 0.
        scores: of the units of each part.
        layers: the number of layers that each part runs through.
        additive: what is lost is the sum of the scores.
    """
    count = len(stops)
    units, stop, lost = [], [], np.zeros(count)
    for part, each, values, number in zip(coupled.parts, coupled.each, scores, layers, strict=True):
        going = _going(values, each, stops)
        at = np.searchsorted(stops, np.arange(len(going)) // each + 1).astype(np.int32)
        units.append(part.unit_ids[going].astype(np.int32))
        stop.append(at)
        lost += np.bincount(at, values[going], count) if additive else number * _losses(values, going, at, count)
    return RemovalPath(coupled, stops, np.concatenate(units), np.concatenate(stop), scores, lost)


def _going(values: Scores, each: int, stops: Ids) -> Ids:
    """The units of a part, by their places in it, that are gone at the last stop, in the order in which they go."""
    return stable_order(values)[: each * int(stops[-1]) if len(stops) else 0]


def _losses(values: Scores, going: Ids, stop: Numbers, count: int) -> Scores:
    """``mean * (1 / r**2)`` from stop to stop, where the units ``going`` go at theirs."""
    values = values - min(values.min(), 0.0)
    removed = np.bincount(stop, values[going], count)
    whole = max(float(values.sum()), np.finfo(float).tiny)
    share = np.maximum(1 - np.cumsum(removed) / whole, 1e-6)
    worth = float(values.mean()) / np.square(np.concatenate([[1.0], share]))
    return np.diff(worth)


class _GoneByItem:
    """How many units of each item are gone, without looking at every unit.

    Args:
        paths: on which they go.
        items: to which they belong.
    """

    def __init__(self, paths: Sequence[RemovalPath], items: Items) -> None:
        self._items = len(items.size)
        rows, tables, single = [np.zeros((2, 0), np.int64)], [np.zeros(0, np.int32)], [np.zeros((3, 0), np.int64)]
        widths = [np.zeros(0, np.int64)]
        for number, path in enumerate(paths):
            of = items.item_of(path.unit_ids)
            found = distinct([of])
            place = np.zeros(self._items, np.int64)
            place[found] = np.arange(len(found))
            which = place[of]
            width = len(path.stops) + 1
            if len(found) * width > ROOM * len(of):
                single.append(np.stack([of, np.full(len(of), number), path.stop]))
                continue
            table = np.bincount(which * width + path.stop + 1, minlength=len(found) * width).reshape(-1, width)
            rows.append(np.stack([found, np.full(len(found), number)]))
            tables.append(np.cumsum(table, axis=1, dtype=np.int32).ravel())
            widths.append(np.full(len(found), width))
        self._single = np.concatenate(single, axis=1)
        self._item, self._path = np.concatenate(rows, axis=1)
        self._table = np.concatenate(tables)
        self._start = np.cumsum(np.concatenate(widths)) - np.concatenate(widths)

    @property
    def touched(self) -> Mask:
        """The items of which something goes. [items]"""
        found = np.zeros(self._items, bool)
        found[self._single[0]] = True
        found[self._item] = True
        return found

    def after(self, passed: Ids) -> Ids:
        """What is gone when so many stops of each path are passed. [items]"""
        item, path, stop = self._single
        found = np.bincount(item[stop < passed[path]], minlength=self._items)
        np.add.at(found, self._item, self._table[self._start + passed[self._path]])
        return found


class RemovalState:
    """All paths of a model. Its state is ``passed`` [paths]: how many stops of each path are passed.

    Attributes:
        paths: themselves.
        lengths: how many stops each has. [paths]
        items: those of which something goes. [items]
    """

    def __init__(self, paths: Sequence[RemovalPath], items: Items) -> None:
        self.paths = paths
        self.lengths = np.array([len(p.stops) for p in paths], np.int64)
        self._gone = _GoneByItem(paths, items)
        self.items = self._gone.touched

    def removed(self, passed: Ids) -> Ids:
        """The units that are gone."""
        gone = [path.unit_ids[path.stop < count] for path, count in zip(self.paths, passed.tolist(), strict=True)]
        return np.concatenate([np.zeros(0, np.int64), *gone])

    def gone(self, passed: Ids) -> Ids:
        """How many units of each item are gone. [items]"""
        return self._gone.after(passed)

    def lost(self, passed: Ids) -> float:
        """The importance that is gone."""
        counts = zip(self.paths, passed.tolist(), strict=True)
        return float(sum(np.cumsum(path.lost[:n])[-1] for path, n in counts if n))
