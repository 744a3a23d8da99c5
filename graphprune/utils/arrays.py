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
        ordered = np.sort(np.concatenate(parts))  # np.unique puts them in a table first, which takes many times as long
        first: Ids = ordered[np.append(True, ordered[1:] != ordered[:-1])]
        return first
    there = np.zeros(bound, bool)
    for part in parts:
        there[part] = True
    return np.flatnonzero(there)


_CLOSE = 16


def distinct_columns(rows: Ids) -> tuple[Ids, Ids]:
    """The columns of an array, in order and each once, and how often each is there.

    ``np.unique`` compares columns as records, which takes several times as long, and numpy turns a Ctrl-C within such a
    comparison into a TypeError.

    Args:
        rows: of numbers. [rows, columns]
    """
    ordered = rows[:, np.lexsort(rows[::-1])]
    first = np.ones(ordered.shape[1], bool)
    first[1:] = (ordered[:, 1:] != ordered[:, :-1]).any(0)
    return ordered[:, first], np.diff(np.append(np.flatnonzero(first), len(first)))


def set_in_runs(mask: Mask, first: Ids) -> Ids:
    """How many entries of each run of a mask are set; eight are looked at at once.

    Args:
        mask: the runs cover all of it.
        first: where they begin, in order. [runs]
    """
    whole = len(mask) // 8
    last = np.zeros(8, bool)
    last[: len(mask) - 8 * whole] = mask[8 * whole :]
    words, end = mask[: 8 * whole].view("<u8"), int(last.view("<u8")[0])
    before = np.zeros(whole + 1, np.uint32)
    for start in range(0, whole, _WORDS):
        counts = words[start : start + _WORDS] * _EIGHT_ONES >> 56
        before[start + 1 : start + 1 + len(counts)] = counts.cumsum() + before[start]
    word, byte = first >> 3, (first & 7).astype(np.uint64) << 3
    here = words[np.minimum(word, whole - 1)] if whole else np.full(len(first), end, np.uint64)
    here = np.where(word < whole, here, end) & ((np.uint64(1) << byte) - 1)
    found = before[word] + (here * _EIGHT_ONES >> 56)
    total = int(before[whole]) + int(last.sum())
    sizes: Ids = np.diff(found.astype(np.int64), append=total)
    return sizes


_WORDS = 1 << 15
"""So many words are counted at once, which keeps what is worked out meanwhile small."""
_EIGHT_ONES = np.uint64(0x0101010101010101)
"""The top byte of a product with it is the sum of all eight bytes."""
