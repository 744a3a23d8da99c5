"""Dimensions whose labels vary over other dimensions too: the channels of heads, which differ from head to head."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from graphprune.graph.solve import Solution
from graphprune.rules.labels import LabelledTensor
from graphprune.utils.arrays import Ids, Mask


@dataclass
class GridRows:
    """The items that each row of each grid consists of.

    A row is what lies at one place of the dimensions before the one that is counted. The size of a grid is that of
    its longest row, so it is the dense one as long as all items of any row are whole.
    """

    _items: list[Ids] = field(default_factory=list)
    _entries: list[Ids] = field(default_factory=list)
    _rows: list[int] = field(default_factory=list)
    _table: tuple[Ids, Ids, Ids] | None = None

    def add(self, solution: Solution, value: LabelledTensor, dim: int) -> None:
        """Add a grid.

        Args:
            solution: knows the items.
            value: the labels of the tensor.
            dim: the dimension that is counted.
        """
        arrays = [solution.items.item_of(solution.of[array.ids]) for array in value.arrays]
        outer = np.broadcast_shapes(*(array.shape[:dim] for array in arrays))
        rows = [np.broadcast_to(a, (*outer, *a.shape[dim:])).reshape(int(np.prod(outer)), -1) for a in arrays]
        found = np.sort(np.concatenate(rows, axis=1), axis=1)
        new = np.diff(found, axis=1, prepend=-1) != 0
        self._items.append(found[new])
        self._entries.append(new.sum(axis=1))
        self._rows.append(len(found))
        self._table = None

    def shortened(self, whole: Mask) -> Ids:
        """The places of the grids none of whose rows consists of whole items. ``whole`` [items]"""
        if not self._rows:
            return np.zeros(0, np.int64)
        if self._table is None:
            entries, rows = np.concatenate(self._entries), np.array(self._rows)
            self._table = np.concatenate(self._items), entries.cumsum() - entries, rows.cumsum() - rows
        items, row, grid = self._table
        return np.flatnonzero(~np.logical_or.reduceat(np.logical_and.reduceat(whole[items], row), grid))
