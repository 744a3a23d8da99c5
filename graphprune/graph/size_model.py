"""Sizes of traced tensors as functions of what lives."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from hashlib import sha256

import numpy as np
from torch import fx

from graphprune.graph.item_pieces import needed_units
from graphprune.graph.linear_expressions import LinearExpression, NotLinear, constant_expression
from graphprune.graph.propagate import Labeling
from graphprune.graph.solve import Solution
from graphprune.rules.labels import LabelArray, LabeledTensor
from graphprune.utils.arrays import Ids, Mask, distinct_columns


def merged_needs(outer: Ids, inner: Ids, rows: int, columns: int) -> Ids:
    """The units that each entry of a dimension needs that was merged of two, as :meth:`SizeModel.needs`.

    Args:
        outer, inner: those that their entries need. [2, n]
        rows, columns: how many entries they have.
    """
    across = outer[1][:, None] * columns + np.arange(columns)
    down = np.arange(rows)[:, None] * columns + inner[1]
    units = np.concatenate([np.repeat(outer[0], columns), np.tile(inner[0], rows)])
    return distinct_columns(np.stack([units, np.concatenate([across.ravel(), down.ravel()])]))[0]


class SizeModel:
    """Sizes of traced tensors as functions of which of the ``selectable`` units live."""

    def __init__(self, labeling: Labeling, solution: Solution, selectable: Mask) -> None:
        self.labeling = labeling
        self.solution = solution
        self.selectable = selectable
        self._expressions: dict[tuple[fx.Node, int | str, int | None], LinearExpression] = {}
        self._of_labels: dict[tuple[tuple[int, ...], int, int, int], LinearExpression] = {}
        self._of_pieces: dict[bytes, LinearExpression] = {}
        self._of_classes: dict[tuple[object, ...], tuple[Ids, Ids]] = {}
        self._of_needed: dict[tuple[int, ...], LinearExpression] = {}

    def labeled(self, node: fx.Node, dim: int | str) -> bool:
        """Does any label vary along this dimension?"""
        found = self.labeling.dimension(node, dim)
        return bool(found and found[0].touching([found[1]]))

    def dense(self, node: fx.Node, dim: int | str) -> int:
        found = self.labeling.dimension(node, dim)
        return found[0].shape[found[1]] if found else int(node.meta["shape"][dim])

    def count(self, alive: Mask, node: fx.Node, dim: int | str, stop: int | None = None) -> int:
        """The number of living entries (before ``stop``) when the classes ``alive`` live."""
        found = self.labeling.dimension(node, dim)
        if not found:
            return self.dense(node, dim) if stop is None else stop
        return self.count_in(alive, *found, stop)

    def count_in(self, alive: Mask, value: LabeledTensor, dim: int, stop: int | None = None) -> int:
        """The number of living entries (before ``stop``) of one dimension of a labeled tensor."""
        if not value.touching([dim]):
            return value.shape[dim] if stop is None else stop
        return int(np.count_nonzero(living(self.solution, alive, value, dim)[:stop]))

    def units_behind(self, node: fx.Node, dim: int | str) -> Ids:
        """All units on which the size of a dimension may depend."""
        found = self.labeling.dimension(node, dim)
        arrays = found[0].touching([found[1]]) if found else []
        classes = [self.solution.of[array.ids.ravel()] for array in arrays]
        return np.unique(self.solution.expand(np.concatenate([np.zeros(0, np.int64), *classes]))[0])

    def needs(self, node: fx.Node, dim: int | str) -> Ids | None:
        """The units that each entry of a dimension needs, [2, n]; None where it also depends on other dimensions."""
        found = self.labeling.dimension(node, dim)
        arrays = found[0].touching([found[1]]) if found else []
        if any(len(array.dims) > 1 for array in arrays):
            return None
        pairs = [np.zeros((2, 0), np.int64)]
        for array in arrays:
            pairs.append(np.stack(self.solution.expand(self.solution.of[array.ids.ravel()], np.arange(array.ids.size))))
        return distinct_columns(np.concatenate(pairs, axis=1))[0]

    def expression(self, node: fx.Node, dim: int | str, stop: int | None = None) -> LinearExpression:
        """The size of a dimension, or the number of its entries before ``stop``."""
        key = node, dim, stop
        if key not in self._expressions:
            self._expressions[key] = self._expression_of(node, dim, stop)
        return self._expressions[key]

    def _expression_of(self, node: fx.Node, dim: int | str, stop: int | None) -> LinearExpression:
        found = self.labeling.dimension(node, dim)
        length = min(self.dense(node, dim), stop if stop is not None else 1 << 62)
        arrays = found[0].touching([found[1]]) if found else []
        place = found[1] if found else 0
        key = tuple(id(array.ids) for array in arrays), place, self.dense(node, dim), length
        if key not in self._of_labels:
            self._of_labels[key] = self._expression_in(arrays, place, self.dense(node, dim), length)
        return self._of_labels[key]

    def _expression_in(self, arrays: Sequence[LabelArray], place: int, size: int, length: int) -> LinearExpression:
        """The number of entries before ``length`` of a dimension of this size, of a tensor with these label arrays."""
        if len(arrays) == 1 and arrays[0].dims == {place} and length == size:
            found = self._line(arrays[0].ids, size)
            if found is not None:
                return found
        needed = [
            self._needed(slot_classes(self.solution, array.ids, place), min(array.dims) < place) for array in arrays
        ]
        key = *map(id, needed), length
        if key not in self._of_needed:
            at, unit = (np.concatenate([np.zeros(0, np.int64), *(one[i] for one in needed)]) for i in (0, 1))
            self._of_needed[key] = self._expression(at[at < length], unit[at < length], length)
        return self._of_needed[key]

    def _needed(self, classes: Ids, within_rows: bool) -> tuple[Ids, Ids]:
        """As :meth:`_necessary`, which layers of a program ask of the same classes under many labels.

        Args:
            classes: by entry, with alternatives. [entries, alternatives]
            within_rows: these are the entries of one row of several, without what the whole row needs.
        """
        key = classes.shape, sha256(classes.tobytes()).digest(), within_rows
        if key not in self._of_classes:
            found = self._necessary(classes)
            self._of_classes[key] = _without_rows(*found, len(classes)) if within_rows else found
        return self._of_classes[key]

    def _line(self, ids: Ids, size: int) -> LinearExpression | None:
        """The size of a dimension with one label a place, all labels of an axis; None: they need several units each."""
        items, axis = self.solution.items, self.labeling.labels.axis_of_all(ids)
        pieces = items.of_axis(axis) if axis is not None else None
        if pieces is None or (items.parts[pieces] >= 0).any():
            return None
        key = pieces.tobytes()
        if key not in self._of_pieces:
            units = items.classes(pieces[items.reason[pieces] < 0])
            units = np.sort(units[self.selectable[units]])
            terms = {units.tobytes(): (Fraction(1), units)} if len(units) else {}
            self._of_pieces[key] = LinearExpression(Fraction(size - len(units)), terms)
        return self._of_pieces[key]

    def _necessary(self, classes: Ids) -> tuple[Ids, Ids]:
        """Pairs (entry, unit) of selectable units that every alternative of the entry needs."""
        n, m = classes.shape
        found = needed_units(classes, self.solution.items) if m > 1 and n else None
        if found is not None and (found.times < m)[self.solution.items.size[found.item] > 1].all():
            every = found.times >= m
            unit = self.solution.items.first[found.item[every]]
            keep = self.selectable[unit]
            return found.row[every][keep], unit[keep]
        unit, at = self.solution.expand(classes.ravel(), np.repeat(np.arange(n), m))
        keep = self.selectable[unit]
        unit, at = unit[keep], at[keep]
        if m == 1 or not len(unit):
            return at, unit
        pairs, counts = np.unique(at * len(self.selectable) + unit, return_counts=True)
        at, unit = np.divmod(pairs[counts >= m], len(self.selectable))
        return at, unit

    def _expression(self, entries: Ids, units: Ids, length: int) -> LinearExpression:
        if not len(units):
            return constant_expression(length)
        if not (entries[1:] > entries[:-1]).all():
            pairs = np.unique(entries * len(self.selectable) + units)
            entries, units = np.divmod(pairs, len(self.selectable))
        taken = 1 + np.count_nonzero(np.diff(entries))
        if taken < len(entries):
            raise NotLinear(LinearExpression(Fraction(0), {b"": (Fraction(1), units)}))
        units = np.sort(units)
        return LinearExpression(Fraction(length - taken), {units.tobytes(): (Fraction(1), units)})

    def axis(self, classes: Ids) -> LinearExpression:
        """The size of a parameter axis whose entries have these classes.

        Raises:
            NotLinear: an entry needs several selectable units.
        """
        unit, entry = self.solution.expand(classes, np.arange(len(classes)))
        keep = self.selectable[unit]
        return self._expression(entry[keep], unit[keep], len(classes))

    def rectangle(self, ids: Ids) -> list[LinearExpression]:
        """The numbers of living entries of the rows of ``ids``, apart from what a whole row needs; equal ones once."""
        rows, columns = ids.shape
        row = np.repeat(np.arange(rows), columns)
        unit, at, column = self.solution.expand(self.solution.of[ids.ravel()], row, np.tile(np.arange(columns), rows))
        keep = self.selectable[unit]
        if not keep.any():
            return []
        _, inverse, times = np.unique(
            at[keep] * len(self.selectable) + unit[keep], return_inverse=True, return_counts=True
        )
        inner = times[inverse] < columns
        at, unit, column = at[keep][inner], unit[keep][inner], column[keep][inner]
        if not len(at):
            return []
        order = np.argsort(at, kind="stable")
        starts = np.searchsorted(at[order], np.arange(1, rows))
        pieces = zip(np.split(column[order], starts), np.split(unit[order], starts), strict=True)
        different = {(c.tobytes(), a.tobytes()): (c, a) for c, a in pieces}
        return [self._expression(c, a, columns) for c, a in different.values()]


def _without_rows(at: Ids, unit: Ids, entries: int) -> tuple[Ids, Ids]:
    """Leave out units that every entry needs: they remove a whole row, and do not change its length."""
    _, inverse, times = np.unique(unit, return_inverse=True, return_counts=True)
    inner = times[inverse] < entries if len(unit) else np.zeros(0, bool)
    return at[inner], unit[inner]


def slot_classes(solution: Solution, ids: Ids, dim: int) -> Ids:
    """Classes by entry of ``dim``: outer dimensions at their first row, inner ones as alternatives."""
    outer = tuple(slice(0, 1) for _ in range(dim))
    return solution.of[ids[outer].reshape(ids.shape[dim], -1)]


def living(solution: Solution, alive: Mask, value: LabeledTensor, dim: int) -> Mask:
    """Which entries of ``dim`` have any living element, in the outer row that has most of them.

    Rows are equally long where they live at all, but need not keep the same entries.
    """
    mask = np.ones([n if d == dim else 1 for d, n in enumerate(value.shape)], bool)
    for array in value.arrays:
        if array.ids.size or not value.shape[dim]:  # a tensor without entries has sizes, too
            mask = mask & alive[solution.of[array.ids]]
    if mask.size == mask.shape[dim]:  # there is one row
        return mask.ravel()
    rows = np.any(mask.reshape(-1, mask.shape[dim], int(np.prod(mask.shape[dim + 1 :]))), axis=2)
    longest: Mask = rows[int(rows.sum(axis=1).argmax())]
    return longest
