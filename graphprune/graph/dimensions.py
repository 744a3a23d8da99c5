"""The sizes of traced tensors as functions of what lives, for many dimensions and many choices at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from threading import RLock
from typing import NamedTuple

import numpy as np
from torch import fx

from graphprune.graph.grids import GridRows, items_of_rows
from graphprune.graph.joints import Joint, JointTable
from graphprune.graph.linear_expressions import NotLinear
from graphprune.graph.living import Living
from graphprune.graph.segments import ranges
from graphprune.graph.size_model import SizeModel
from graphprune.graph.solve import ClassTable, Items
from graphprune.rules.labels import LabelArray, LabeledTensor, ParameterAxis
from graphprune.utils.arrays import Ids, Mask, Scores, distinct_columns


@dataclass(frozen=True)
class Needs:
    """Which units the entries of dimensions need.

    Attributes:
        items: what ``by_item`` is about.
        by_item: a dimension has all entries of an item, which need the units of another, place by place (or all of them
            its only one): dimension, item of the entries, item of the units, how often. [4, rows]
        by_class: an entry of a dimension lives while a class does, and needs a unit: dimension, class, unit. [3, rows]
    """

    items: Items
    by_item: Ids
    by_class: Ids

    def dims_of(self, units: Mask) -> Ids:
        """The dimensions that need any of some units. ``units`` [classes]"""
        dim, _, unit, _ = self.by_item
        exact, _, single = self.by_class
        return np.concatenate([dim[self.items.living(units)[unit] > 0], exact[units[single]]])

    def members(self, of: ClassTable, shape: tuple[int, int]) -> Mask:
        """Which dimensions need units of which group.

        Args:
            of: for every class the number of its group, or -1. Classes of an item are of the same group.
            shape: the numbers of dimensions and groups.
        """
        found = np.zeros(shape, bool)
        units = np.concatenate([self.items.first[self.by_item[2]], self.by_class[2]])
        dim, group = np.concatenate([self.by_item[0], self.by_class[0]]), of[units]
        found[dim[group >= 0], group[group >= 0]] = True
        return found

    def signatures(self) -> dict[int, int]:
        """For every dimension that can change, a number that dimensions with the same units share."""
        noise = np.random.default_rng(2).integers(1, 1 << 62, int(self.items.size.sum()), dtype=np.int64)
        dim, _, unit, _ = self.by_item
        pairs, _ = distinct_columns(np.stack([dim, unit]))
        units = self.items.classes(pairs[1])
        every = np.stack([np.repeat(pairs[0], self.items.size[pairs[1]]), units])
        every, _ = distinct_columns(np.concatenate([every, self.by_class[[0, 2]]], axis=1))
        return {dim: int(noise[every[1][every[0] == dim]].sum()) for dim in np.unique(every[0]).tolist()}

    @cached_property
    def _pairs(self) -> tuple[Ids, Ids]:
        """Pairs ``entry * items + unit`` of items, each once, and which of them the rows of ``by_item`` are about."""
        _, entry, unit, _ = self.by_item
        pairs, inverse = np.unique(entry * len(self.items.size) + unit, return_inverse=True)
        return pairs, inverse

    def prices(self, slopes: Scores, alive: Mask, asked: Mask | None = None) -> Scores:
        """The sum of the slopes of dimensions, for every entry that lives and needs a unit. [classes]

        Args:
            slopes: of every dimension.
            alive: which classes live.
            asked: the items whose units are asked for; of others not all entries are added up. None: all. [items]
        """
        items = self.items
        dim, _, _, times = self.by_item
        pairs, inverse = self._pairs
        weight = np.bincount(inverse, slopes[dim] * times, len(pairs))
        entry, unit = np.divmod(pairs, len(items.size))
        lone = items.size[unit] == 1
        living = items.living(alive)[entry[lone]]
        exact, needed, single = self.by_class
        here = alive[needed]
        own = (entry == unit) & ~lone
        weights = np.bincount(unit[own], weight[own], len(items.size)).astype(np.float64, copy=False)
        found: Scores = np.repeat(weights, items.size)
        found *= alive
        np.add.at(found, single[here], slopes[exact[here]])
        np.add.at(found, items.first[unit[lone]], weight[lone] * living)
        rest = ~(own | lone) if asked is None else ~(own | lone) & asked[unit]
        for e, u, w in zip(entry[rest].tolist(), unit[rest].tolist(), weight[rest].tolist(), strict=True):
            size = items.size[u]
            found[items.first[u] : items.first[u] + size] += w * alive[items.first[e] : items.first[e] + size]
        return found


class _Pieces(NamedTuple):
    """A line that consists of whole items; of items of one class perhaps of the same ones again and again."""

    number: int
    items: Ids


def is_grid(value: LabeledTensor, dim: int) -> bool:
    """Do the entries of a dimension differ from one place of other dimensions to the next?"""
    return any(array.dims != {dim} for array in _counted_arrays(value, dim))


def _counted_arrays(value: LabeledTensor, dim: int) -> list[LabelArray]:
    """The arrays that tell which entries of a dimension live."""
    arrays = [array for array in value.arrays if dim in array.dims]
    if len(arrays) < 2:
        return arrays
    rows = [array for array in arrays if array.dims == {dim}]
    apart = rows and all(array.cell for array in arrays if array.dims != {dim})
    return rows if apart else arrays  # a row does not end with one of its cells


@dataclass
class Dimensions:
    """A table of dimensions. Number 0 is a dimension of size 1.

    A dimension with one label a place is a *line*: all lines are counted by one gather and one sum. The others are
    looked at one by one: *joints* with several labels a place, *grids* whose labels vary over other dimensions too (a
    head width whose cells lie within rows). Several threads may plan for one model: each waits while another adds or
    counts.
    """

    sizes: SizeModel
    _numbers: dict[object, int] = field(default_factory=dict)
    _of_nodes: dict[tuple[fx.Node, int], int] = field(default_factory=dict)
    _of_labels: dict[int, int] = field(default_factory=dict)
    _of_joints: dict[tuple[int, ...], int] = field(default_factory=dict)
    _of_equal_joints: dict[tuple[tuple[int, ...], bytes], int] = field(default_factory=dict)
    _of_grids: dict[tuple[int, ...], int] = field(default_factory=dict)
    _lines: list[_Pieces] = field(default_factory=list)
    _grids: list[tuple[int, fx.Node, int]] = field(default_factory=list)
    _constants: list[int] = field(default_factory=lambda: [1])
    _joints: list[Joint] = field(default_factory=list)
    _flat: tuple[Ids, Ids, Ids] | None = None
    _grid_rows: GridRows = field(default_factory=GridRows)
    _joint_table: JointTable | None = None
    _lock: RLock = field(default_factory=RLock)

    def number(self, node: fx.Node, dim: int) -> int:
        """The number of one dimension of a traced tensor; the same for dimensions with the same labels."""
        known = self._of_nodes.get((node, dim))
        if known is None:
            with self._lock:
                known = self._of_nodes[node, dim] = self._number(node, dim)
        return known

    def are_the_same(self, one: fx.Node, other: fx.Node) -> bool:
        """Have two traced tensors the same sizes, whatever goes?"""
        shape = one.meta.get("shape")
        if shape is None or shape != other.meta.get("shape"):
            return False
        pairs = [(size, self.number(one, dim), self.number(other, dim)) for dim, size in enumerate(shape)]
        pairs = [(size, a, b) for size, a, b in pairs if a != b]
        if pairs:
            least = self.counts(~self.sizes.solution.prunable)
        return all(least[a] == least[b] == size for size, a, b in pairs)

    def _number(self, node: fx.Node, dim: int) -> int:
        value = self.sizes.labeling.values[node]
        dim %= len(node.meta["shape"])
        arrays = _counted_arrays(value, dim) if isinstance(value, LabeledTensor) else []
        if not arrays:
            return self._add(int(node.meta["shape"][dim]), int(node.meta["shape"][dim]))
        wide = [array for array in arrays if array.dims != {dim}]
        if not wide:
            return self._labeled_line(arrays[0].ids) if len(arrays) == 1 else self._labeled_joint(arrays)
        own = dim, *(id(array.ids) for array in value.arrays)
        if own not in self._of_grids:
            self._of_grids[own] = self._grid(value, node, dim)
        return self._of_grids[own]

    def _grid(self, value: LabeledTensor, node: fx.Node, dim: int) -> int:
        key = dim, *((array.ids.shape, sha256(array.ids.tobytes()).digest()) for array in value.arrays)
        known = len(self._constants)
        number = self._add(key, value.shape[dim])
        if number == known:
            self._grids.append((number, node, dim))
            self._grid_rows.add(*items_of_rows(self.sizes.solution, value, dim))
        return number

    def _labeled_line(self, ids: Ids) -> int:
        """The number of a dimension with these labels. Operations that change nothing hand on the very array."""
        known = self._of_labels.get(id(ids))
        if known is None:
            axis = self.sizes.labeling.labels.axis_of_all(ids)
            found = self.line(self.sizes.solution.of[ids.ravel()]) if axis is None else self.axis(axis)
            known = self._of_labels[id(ids)] = found
        return known

    def _labeled_joint(self, arrays: Sequence[LabelArray]) -> int:
        """The number of a dimension whose places have one label of each of these arrays."""
        own = tuple(id(array.ids) for array in arrays)
        if own not in self._of_joints:
            labels = np.stack([array.ids.ravel() for array in arrays])
            key = labels.shape, sha256(labels.tobytes()).digest()
            if key not in self._of_equal_joints:
                self._of_equal_joints[key] = self._joint(self.sizes.solution.of[labels])
            self._of_joints[own] = self._of_equal_joints[key]
        return self._of_joints[own]

    def axis(self, number: int) -> int:
        """The number of a dimension with the labels of this axis, of :attr:`Labels.axes`."""
        size = self.sizes.labeling.labels.axes[number].size
        with self._lock:
            return self._pieces(self.sizes.solution.items.of_axis(number), size)

    def named_axes(self) -> dict[ParameterAxis, int]:
        """The numbers of the dimensions of all parameters and buffers."""
        axes, items = self.sizes.labeling.labels.axes, self.sizes.solution.items
        with self._lock:
            return {
                axis.name: self._pieces(items.of_axis(number), axis.size)
                for number, axis in enumerate(axes)
                if axis.name is not None
            }

    def line(self, classes: Ids) -> int:
        """The number of a dimension whose entries live while their classes live."""
        pieces = self._whole_items(classes)
        with self._lock:
            return self._joint(classes[None]) if pieces is None else self._pieces(pieces, len(classes))

    def _pieces(self, pieces: Ids, size: int) -> int:
        """The number of a dimension that consists of these items."""
        known = len(self._constants)
        number = self._add(pieces.tobytes(), size)
        if number == known:
            self._lines.append(_Pieces(number, pieces))
            self._flat = None
        return number

    def _whole_items(self, classes: Ids) -> Ids | None:
        """The items that a line consists of; None: of some it has a part only."""
        items = self.sizes.solution.items
        jumps = (classes[1:] - classes[:-1] != 1).nonzero()[0]
        first, last = classes[[0, *(jumps + 1)]], classes[[*jumps, -1]]
        begin, end = items.item_of(first), items.item_of(last)
        whole = (items.first[begin] == first) & (items.first[end] + items.size[end] == last + 1)
        return ranges(begin, end - begin + 1) if whole.all() else None

    def _joint(self, classes: Ids) -> int:
        """The number of a dimension whose entries live while all of their classes do. [labels, entries]"""
        joint = Joint.of(classes, self.sizes.solution.items)
        known = len(self._constants)
        number = self._add(joint.key, classes.shape[1])
        if number == known:
            self._joints.append(joint._replace(number=number))
            self._joint_table = None
        return number

    def _add(self, key: object, size: int) -> int:
        if key not in self._numbers:
            self._numbers[key] = len(self._constants)
            self._constants.append(size)
        return self._numbers[key]

    @property
    def grids(self) -> frozenset[int]:
        """The dimensions that are no lines."""
        return frozenset(number for number, _, _ in self._grids)

    def counts(self, alive: Mask) -> Ids:
        """How many entries of every dimension live. [dimensions]"""
        living = self.sizes.solution.items.living(alive)
        with self._lock:
            return self._counts(living, lambda: alive)

    def counts_of(self, living: Living) -> Ids:
        """As :meth:`counts`, of what is counted by items."""
        counts = living.counts
        with self._lock:
            return self._counts(counts, lambda: living.alive)

    def _counts(self, living: Ids, alive: Callable[[], Mask]) -> Ids:
        counts = np.array(self._constants)
        if self._lines:
            numbers, pieces, starts = self._flattened()
            counts[numbers] = np.add.reduceat(living[pieces], starts)
        items = self.sizes.solution.items
        if self._joint_table is None:
            self._joint_table = JointTable(self._joints, items)
        self._joint_table.count(counts, living, items, alive)
        for place in self._grid_rows.shortened(living == items.size).tolist():
            number, node, dim = self._grids[place]
            counts[number] = self.sizes.count(alive(), node, dim)
        return counts

    def _flattened(self) -> tuple[Ids, Ids, Ids]:
        if self._flat is None:
            lengths = [len(line.items) for line in self._lines]
            starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
            numbers = np.array([line.number for line in self._lines])
            self._flat = numbers, np.concatenate([line.items for line in self._lines]), starts
        return self._flat

    def needs(self, numbers: Ids | None = None) -> Needs:
        """Which units the entries of dimensions need; where that is not linear, nothing is said.

        Args:
            numbers: of the dimensions; None: of all.
        """
        with self._lock:
            return self._needs(numbers)

    def _needs(self, numbers: Ids | None) -> Needs:
        solution, by_item = self.sizes.solution, [np.zeros((4, 0), np.int64)]
        asked = np.full(len(self._constants), numbers is None)
        asked[[] if numbers is None else numbers] = True
        if self._lines:
            of_lines, pieces, _ = self._flattened()
            dim = np.repeat(of_lines, [len(line.items) for line in self._lines])
            dim, pieces = dim[asked[dim]], pieces[asked[dim]]
            unit, dim, entry = solution.items.units(pieces, dim, pieces)
            by_item.append(np.stack([dim, entry, unit, np.ones_like(unit)]))
        others = [np.zeros((3, 0), np.int64)]
        for joint in (j for j in self._joints if asked[j.number]):
            rows, items = np.tile(joint.sizes, len(joint.items)), joint.items.ravel()
            times = np.where(solution.items.size[items] > 1, 1, rows)
            unit, entry, times = solution.items.units(items, items, times)
            by_item.append(np.stack([np.full(len(unit), joint.number), entry, unit, times]))
            if joint.classes is not None:
                unit, entry = solution.expand(joint.classes.ravel(), joint.classes.ravel())
                others.append(np.stack([np.full(len(unit), joint.number), entry, unit]))
        for number, node, dim_ in (grid for grid in self._grids if asked[grid[0]]):
            units = self._linear_units(node, dim_)
            others.append(np.stack([np.full(len(units), number), units, units]))
        return Needs(solution.items, np.concatenate(by_item, axis=1), np.concatenate(others, axis=1))

    def _linear_units(self, node: fx.Node, dim: int) -> Ids:
        try:
            return self.sizes.expression(node, dim).units
        except NotLinear as error:
            return error.units[:0]
