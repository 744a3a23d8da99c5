"""Dimensions whose labels vary over other dimensions too: the channels of heads, which differ from head to head."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from graphprune.graph.item_pieces import item_pieces
from graphprune.graph.segments import ranges
from graphprune.graph.solve import Solution
from graphprune.rules.labels import LabeledTensor
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

    def add(self, entries: Ids, items: Ids) -> None:
        """Add a grid, of which :func:`items_of_rows` tells these."""
        self._items.append(items)
        self._entries.append(entries)
        self._rows.append(len(entries))
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


def items_of_rows(solution: Solution, value: LabeledTensor, dim: int) -> tuple[Ids, Ids]:
    """How many items each row of a grid runs through [rows], and these items, row by row.

    Args:
        solution: knows the items.
        value: the labels of the tensor.
        dim: the dimension that is counted.
    """
    outer = np.broadcast_shapes(*(array.ids.shape[:dim] for array in value.arrays))
    pairs = np.unique(np.concatenate([_rows_of(solution, a.ids, dim, outer) for a in value.arrays]))
    row, item = np.divmod(pairs, len(solution.items.size))
    return np.bincount(row, minlength=int(np.prod(outer))), item


def _rows_of(solution: Solution, ids: Ids, dim: int, outer: tuple[int, ...]) -> Ids:
    """Pairs ``row * items + item``: the items of the labels in each row before ``dim``, broadcast to ``outer``."""
    items = solution.items
    own = ids.shape[:dim]
    pieces = item_pieces(solution.of[ids.reshape(int(np.prod(own)), -1)], items)
    if own == outer:
        return pieces.row * len(items.size) + pieces.item
    rows = np.broadcast_to(np.arange(int(np.prod(own))).reshape(own), outer).ravel()
    count = np.bincount(pieces.row)
    here = ranges((count.cumsum() - count)[rows], count[rows])
    return np.repeat(np.arange(len(rows)), count[rows]) * len(items.size) + pieces.item[here]
