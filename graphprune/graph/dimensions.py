"""The sizes of traced tensors as functions of what lives, for many dimensions and many choices at once."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import fx

from graphprune.graph.linear_expressions import NotLinear
from graphprune.graph.size_model import SizeModel
from graphprune.rules.labels import LabelledTensor
from graphprune.utils.arrays import Ids, Mask


@dataclass(frozen=True)
class Needs:
    """Entry ``i`` belongs to dimension ``dim[i]``, lives while class ``entry[i]`` does, and needs unit ``unit[i]``."""

    dim: Ids
    entry: Ids
    unit: Ids


@dataclass
class Dimensions:
    """A table of dimensions. Number 0 is a dimension of size 1.

    A dimension with one label a place is a *line*: all lines are counted by one gather and one sum. The others are
    looked at one by one: *joints* with several labels a place, *grids* whose labels vary over other dimensions too (a
    head width whose cells lie within rows).
    """

    sizes: SizeModel
    _numbers: dict[object, int] = field(default_factory=dict)
    _of_nodes: dict[tuple[fx.Node, int], int] = field(default_factory=dict)
    _of_labels: dict[int, int] = field(default_factory=dict)
    _lines: list[tuple[int, Ids]] = field(default_factory=list)
    _grids: list[tuple[int, fx.Node, int]] = field(default_factory=list)
    _constants: list[int] = field(default_factory=lambda: [1])
    _joints: list[tuple[int, Ids]] = field(default_factory=list)
    _columns: list[Ids] = field(default_factory=list)
    _flat: tuple[Ids, Ids, Ids] | None = None

    def number(self, node: fx.Node, dim: int) -> int:
        """The number of one dimension of a traced tensor; the same for dimensions with the same labels."""
        known = self._of_nodes.get((node, dim))
        if known is None:
            known = self._of_nodes[node, dim] = self._number(node, dim)
        return known

    def _number(self, node: fx.Node, dim: int) -> int:
        value = self.sizes.labelling.values[node]
        dim %= len(node.meta["shape"])
        arrays = value.touching([dim]) if isinstance(value, LabelledTensor) else []
        rows = [array for array in arrays if array.dims == {dim}]
        if rows and all(array.cell for array in arrays if array.dims != {dim}):
            arrays = rows  # a row does not end with one of its cells
        if not arrays:
            return self._add(int(node.meta["shape"][dim]), int(node.meta["shape"][dim]))
        if len(arrays) == 1 and arrays[0].dims == {dim}:
            return self._labelled_line(arrays[0].ids)
        if all(array.dims == {dim} for array in arrays):
            return self._joint(np.stack([self.sizes.solution.of[array.ids.ravel()] for array in arrays]))
        key = (dim, *((array.ids.shape, array.ids.tobytes()) for array in value.arrays))
        known = len(self._constants)
        number = self._add(key, value.shape[dim])
        if number == known:
            self._grids.append((number, node, dim))
            touching = np.concatenate([self.sizes.solution.of[array.ids.ravel()] for array in arrays])
            self._columns.append(np.unique(touching))
        return number

    def _labelled_line(self, ids: Ids) -> int:
        """The number of a dimension with these labels. Operations that change nothing hand on the very array."""
        known = self._of_labels.get(id(ids))
        if known is None:
            known = self._of_labels[id(ids)] = self.line(self.sizes.solution.of[ids.ravel()])
        return known

    def line(self, classes: Ids) -> int:
        """The number of a dimension whose entries live while their classes live."""
        known = len(self._constants)
        number = self._add(classes.tobytes(), len(classes))
        if number == known:
            self._lines.append((number, classes))
            self._flat = None
        return number

    def _joint(self, classes: Ids) -> int:
        """The number of a dimension whose entries live while all of their classes do. [labels, entries]"""
        known = len(self._constants)
        number = self._add((len(classes), classes.tobytes()), classes.shape[1])
        if number == known:
            self._joints.append((number, classes))
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
        counts = np.array(self._constants)
        if self._lines:
            numbers, classes, starts = self._flattened()
            counts[numbers] = np.add.reduceat(alive[classes].astype(np.int64), starts)
        for number, classes in self._joints:
            counts[number] = int(alive[classes].all(axis=0).sum())
        for (number, node, dim), columns in zip(self._grids, self._columns, strict=True):
            if not alive[columns].all():
                counts[number] = self.sizes.count(alive, node, dim)
        return counts

    def _flattened(self) -> tuple[Ids, Ids, Ids]:
        if self._flat is None:
            lengths = [len(classes) for _, classes in self._lines]
            starts = np.concatenate([[0], np.cumsum(lengths)[:-1]])
            numbers = np.array([number for number, _ in self._lines])
            self._flat = numbers, np.concatenate([classes for _, classes in self._lines]), starts
        return self._flat

    def needs(self) -> Needs:
        """Which units the entries of every dimension need; where that is not linear, nothing is said."""
        found = []
        if self._lines:
            numbers, classes, _ = self._flattened()
            dim = np.repeat(numbers, [len(c) for _, c in self._lines])
            unit, dim, entry = self.sizes.solution.expand(classes, dim, classes)
            found.append((dim, entry, unit))
        for number, classes in self._joints:
            unit, entry = self.sizes.solution.expand(classes.ravel(), classes.ravel())
            found.append((np.full(len(unit), number), entry, unit))
        for number, node, dim_ in self._grids:
            units = self._linear_units(node, dim_)
            found.append((np.full(len(units), number), units, units))
        empty = np.zeros(0, np.int64)
        return Needs(*map(np.concatenate, zip((empty,) * 3, *found, strict=True)))

    def _linear_units(self, node: fx.Node, dim: int) -> Ids:
        try:
            return self.sizes.expression(node, dim).units
        except NotLinear as error:
            return error.units[:0]
