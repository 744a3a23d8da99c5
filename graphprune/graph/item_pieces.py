"""Rows of classes as pieces of items: what is said of thousands of entries is said of a few pieces."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from graphprune.graph.segments import ranges
from graphprune.graph.solve import Items
from graphprune.utils.arrays import Ids


class ItemPieces(NamedTuple):
    """The items that the rows of a matrix of classes run through, in its order.

    Attributes:
        row: in which each piece lies. [pieces]
        item: the item of its classes. [pieces]
        cut: rows with pieces that are no whole items.
    """

    row: Ids
    item: Ids
    cut: Ids

    @property
    def whole(self) -> bool:
        """Are all pieces whole items?"""
        return not len(self.cut)


def item_pieces(classes: Ids, items: Items) -> ItemPieces:
    """The pieces of a matrix of classes, which has at least one entry. ``classes`` [rows, columns]"""
    matrix = np.zeros(classes.shape, bool)
    np.equal(classes[:, 1:], classes[:, :-1] + 1, out=matrix[:, 1:])
    goes_on, in_order = matrix.reshape(-1), classes.reshape(-1)
    start = np.flatnonzero(~goes_on)
    end = np.append(start[1:], len(goes_on)) - 1
    first, last = in_order[start], in_order[end]
    begin, stop = items.item_of(first), items.item_of(last)
    whole = (items.first[begin] == first) & (items.first[stop] + items.size[stop] == last + 1)
    count, row = stop - begin + 1, start // classes.shape[1]
    return ItemPieces(np.repeat(row, count), ranges(begin, count), row[~whole])


class NeededUnits(NamedTuple):
    """By how many entries of a row a unit is needed: of an item of one class, or each unit of a longer one.

    Attributes:
        row, item, times: of all pairs that there are. [pairs]
    """

    row: Ids
    item: Ids
    times: Ids


def needed_units(classes: Ids, items: Items) -> NeededUnits | None:
    """Which units the rows of a matrix of classes need; None: it does not consist of whole items."""
    pieces = item_pieces(classes, items)
    return times_needed(pieces.row, pieces.item, items) if pieces.whole else None


def times_needed(row: Ids, item: Ids, items: Items) -> NeededUnits:
    """Which units rows need that consist of whole items. ``row``, ``item`` [pieces]"""
    unit, row, size = items.units(item, row, items.size[item])
    pairs, inverse = np.unique(row * len(items.size) + unit, return_inverse=True)
    times = np.bincount(inverse, np.where(items.size[unit] > 1, 1, size), len(pairs)).astype(np.int64)
    row, unit = np.divmod(pairs, len(items.size))
    return NeededUnits(row, unit, times)
