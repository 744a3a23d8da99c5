"""Names for the numpy arrays that are passed around."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
"""Numbers of labels, classes, units or entries."""
Mask = NDArray[np.bool_]
"""One truth value for each of something, such as which classes live."""
Scores = NDArray[np.float64]
"""Importance, cost or another measure of each of something."""
Dims = frozenset[int]
"""Numbers of dimensions."""
Shape = tuple[int, ...]
"""Sizes of all dimensions."""


def stable_order(values: Scores) -> Ids:
    """As a stable ``np.argsort``, several times faster where all values differ."""
    order: Ids = np.argsort(values)
    ordered = values[order]
    if (ordered[1:] > ordered[:-1]).all():
        return order
    return np.argsort(values, kind="stable")


def distinct(parts: Sequence[Ids]) -> Ids:
    """The numbers in arrays, from 0 on, in order and each once; faster than sorting them where they lie close."""
    bound = 1 + max((int(part.max()) for part in parts if part.size), default=-1)
    if bound > _CLOSE * sum(part.size for part in parts):
        return np.unique(np.concatenate(parts))
    there = np.zeros(bound, bool)
    for part in parts:
        there[part] = True
    return np.flatnonzero(there)


_CLOSE = 16
