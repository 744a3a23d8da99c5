"""Dimensions with several labels a place: an entry lives while all of its labels do."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from graphprune.graph.segments import ranges
from graphprune.graph.solve import Items
from graphprune.utils.arrays import Ids, Mask


class Joint(NamedTuple):
    """Entries with several labels each.

    Attributes:
        number: of the dimension.
        items: the entries fall into pieces that have whole items as labels, or items of one class for all. [labels,
            pieces]
        sizes: of the pieces. [pieces]
        classes: if they do not, the labels. [labels, entries]
    """

    number: int
    items: Ids
    sizes: Ids
    classes: Ids | None

    @staticmethod
    def of(classes: Ids, items: Items) -> Joint:
        found = items.item_of(classes)
        goes_on = (classes[:, 1:] - classes[:, :-1] == 1) | (items.size[found[:, 1:]] == 1)
        goes_on &= found[:, 1:] == found[:, :-1]
        first = np.ones(classes.shape[1], bool)
        first[1:] = ~goes_on.all(axis=0)
        start = np.flatnonzero(first)
        found, sizes = found[:, start], np.diff(start, append=classes.shape[1])
        whole = items.size[found]
        if ((whole == 1) | (whole == sizes)).all():
            return Joint(0, found, sizes, None)
        return Joint(0, found[:, :0], sizes[:0], classes)

    @property
    def key(self) -> tuple[object, ...]:
        """What tells it apart from others."""
        exact = b"" if self.classes is None else self.classes.tobytes()
        return len(self.items), self.items.tobytes(), self.sizes.tobytes(), exact

    def exactly(self, items: Items, alive: Mask) -> int:
        """How many entries live, by their classes."""
        classes = np.stack([self._classes(row, items) for row in self.items]) if self.classes is None else self.classes
        return int(alive[classes].all(axis=0).sum())

    def _classes(self, row: Ids, items: Items) -> Ids:
        place = ranges(np.zeros_like(row), self.sizes)
        return np.repeat(items.first[row], self.sizes) + np.where(np.repeat(items.size[row] > 1, self.sizes), place, 0)


class _Alike(NamedTuple):
    """Joints with as many labels each, one after the other.

    Attributes:
        joints: themselves.
        numbers: of their dimensions. [joints]
        items, sizes: of all their pieces. [labels, pieces], [pieces]
        start: the first piece of each. [joints]
        whole: how many classes the items have. [labels, pieces]
    """

    joints: Sequence[Joint]
    numbers: Ids
    items: Ids
    sizes: Ids
    start: Ids
    whole: Ids

    @staticmethod
    def of(joints: Sequence[Joint], items: Items) -> _Alike:
        count = np.array([len(joint.sizes) for joint in joints])
        pieces = np.concatenate([joint.items for joint in joints], axis=1)
        sizes = np.concatenate([joint.sizes for joint in joints])
        numbers = np.array([joint.number for joint in joints])
        return _Alike(joints, numbers, pieces, sizes, count.cumsum() - count, items.size[pieces])

    def left(self, living: Ids) -> tuple[Ids, Mask]:
        """How many entries of each live, and of which that cannot be told by items. [joints] both."""
        left = living[self.items]
        partly = np.add.reduce((left > 0) & (left < self.whole), axis=0) > 1  # other places of the two may live
        counts = np.rint(np.add.reduceat(self.sizes * np.prod(left / self.whole, axis=0), self.start)).astype(np.int64)
        return counts, np.logical_or.reduceat(partly, self.start)


class JointTable:
    """Counts many joints at once."""

    def __init__(self, joints: Sequence[Joint], items: Items) -> None:
        by_labels = defaultdict(list)
        for joint in joints:
            if len(joint.sizes):
                by_labels[len(joint.items)].append(joint)
        self._alike = [_Alike.of(alike, items) for alike in by_labels.values()]
        self._others = [joint for joint in joints if not len(joint.sizes)]

    def count(self, counts: Ids, living: Ids, items: Items, alive: Callable[[], Mask]) -> None:
        """Write how many entries live.

        Args:
            counts: is written to. [dimensions]
            living: how many classes of items live. [items]
            items: to which the classes belong.
            alive: tells which classes live; called where items do not tell.
        """
        exact = list(self._others)
        for alike in self._alike:
            counts[alike.numbers], unclear = alike.left(living)
            exact += [alike.joints[place] for place in unclear.nonzero()[0].tolist()]
        for joint in exact:
            counts[joint.number] = joint.exactly(items, alive())
