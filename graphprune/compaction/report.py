"""Put what a search found in words: by group, and rows and columns that are no zero channel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from graphprune.compaction.record import ZeroGroup, ZeroSlices
from graphprune.compaction.search import ZeroSearch
from graphprune.graph.analysis import Analysis
from graphprune.graph.frozen import frozen_axes
from graphprune.graph.parameter_uses import consumed_axes, scale_axes
from graphprune.rules.labels import ParameterAxis
from graphprune.utils.arrays import Ids


def zero_groups(search: ZeroSearch) -> tuple[ZeroGroup, ...]:
    """The groups that have zero channels, in the order of execution."""
    return tuple(one for one in _groups(search) if one.zero)


def _groups(search: ZeroSearch) -> Iterator[ZeroGroup]:
    for group in search.graph.units.groups:
        kept = Counter(search.kept[unit] for unit in group.unit_ids.tolist() if unit in search.kept)
        removed = int(search.going[group.unit_ids].sum())
        yield ZeroGroup(group.name, group.role, group.units, removed, tuple(kept.items()))


def zero_slices(search: ZeroSearch) -> tuple[ZeroSlices, ...]:
    """Zero rows, columns and scales that belong to no zero channel."""
    return tuple(one for one in _Slices(search).found() if one.count)


class _Slices:
    def __init__(self, search: ZeroSearch) -> None:
        self.graph: Analysis = search.graph
        self.zero = search.going.copy()
        self.zero[list(search.kept)] = True
        self.zero |= ~search.eligible  # told of by another search
        axes = {axis.parameter_axis: n for n, axis in enumerate(self.graph.units.axes)}
        read, scales = consumed_axes(self.graph.labeling), scale_axes(self.graph.labeling)
        wide = [axis for axis in axes if len(self.graph.trace.shapes[axis.parameter]) > 1]
        self.side = {axis: axis in read for axis in wide} | dict.fromkeys(scales, "scale")
        self.number = {axis: axes[axis] for axis in self.side}
        self.empty = {axis: _empty(search, axis) for axis in self.side}

    def found(self) -> Iterator[ZeroSlices]:
        """For each axis, the zero entries of which no unit is a zero channel."""
        frozen = {one.axis: one.reason for one in frozen_axes(self.graph)} if any(map(len, self.empty.values())) else {}
        for axis, empty in self.empty.items():
            unit, entry = self._needed(axis)
            others = np.setdiff1d(empty, entry[self.zero[unit]])
            if len(others) and (len(unit) or axis in frozen):
                yield ZeroSlices(axis, len(others), self._size(axis), self._why(axis, int(others[0]), frozen))

    def _why(self, axis: ParameterAxis, first: int, frozen: dict[str, str]) -> str:
        unit, entry = self._needed(axis)
        units = unit[entry == first]
        if not len(units):
            return f"frozen: {frozen.get(axis, 'nothing of it can be pruned')}"
        for other in self.side:
            if self.side[other] == self.side[axis]:
                unit, entry = self._needed(other)
                if len(np.setdiff1d(entry[np.isin(unit, units)], self.empty[other])):
                    if other == axis:
                        return "other entries of it belong to the same channels, and are not zero"
                    return f"{other} has the same channels, and is not zero there"
        return "what they pass on is no constant"

    def _size(self, axis: ParameterAxis) -> int:
        return int(self.graph.units.axes[self.number[axis]].size)

    def _needed(self, axis: ParameterAxis) -> tuple[Ids, Ids]:
        """The units that entries of an axis need, and these entries."""
        where = self.graph.units.occurrences
        here = slice(*np.searchsorted(where.axis, [self.number[axis], self.number[axis] + 1]))
        return where.unit[here], where.index[here]


def _empty(search: ZeroSearch, axis: ParameterAxis) -> Ids:
    """The entries of an axis of which nothing is left."""
    left = search.left.get(axis.parameter)
    if left is None or left.ndim <= axis.dim or not left.numel():
        return np.zeros(0, np.int64)
    others = tuple(d for d in range(left.ndim) if d != axis.dim)
    some = left.any(dim=others) if others else left
    return np.flatnonzero(~some.cpu().numpy())
