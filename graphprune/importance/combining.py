"""Reduce the partial scores of each unit to one, and normalize scores within a group; the same for all criteria."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphprune.utils.arrays import Ids, Scores

REDUCTIONS = ("sum", "mean", "max")
"""Over the parameter axes (or consumers) of a unit; ``max`` takes the value of the largest magnitude."""


def reduce_parts(reduce: str, unit: Ids, part: Ids, values: Scores, count: int) -> Scores:
    """Sum values within each part (parameter axis or consumer) of a unit, and reduce over the parts.

    Args:
        reduce: one of :data:`REDUCTIONS`.
        unit, part, values: ``values[i]`` belongs to ``unit[i]`` and comes from ``part[i]``.
        count: the number of units.

    Returns:
        One number for each unit; 0 without values. [count]
    """
    if reduce == "sum":
        total: Scores = np.bincount(unit, values, count).astype(np.float64)
        return total
    pairs, where = np.unique(part * count + unit, return_inverse=True)
    sums, owner = np.bincount(where, values, len(pairs)), pairs % count
    if reduce == "mean":
        mean: Scores = np.bincount(owner, sums, count) / np.maximum(np.bincount(owner, minlength=count), 1)
        return mean
    order = np.argsort(np.abs(sums), kind="stable")
    largest = np.zeros(count)
    largest[owner[order]] = sums[order]  # of several assignments to one place, the last holds
    return largest


_TINY = np.finfo(np.float64).tiny


def _by_deviation(scores: Scores) -> Scores:
    found: Scores = (scores - scores.mean()) / max(scores.std(), _TINY)
    return found


NORMALIZATIONS: dict[str, Callable[[Scores], Scores]] = {
    "none": lambda scores: scores,
    "mean": lambda scores: scores / max(np.abs(scores).mean(), _TINY),
    "sum": lambda scores: scores / max(np.abs(scores).sum(), _TINY),
    "max": lambda scores: scores / max(np.abs(scores).max(), _TINY),
    "gaussian": _by_deviation,
}
"""Within a group; none changes the order of units.

``mean``, ``sum`` and ``max`` divide by the mean, the sum and the maximum of the magnitudes; ``gaussian`` gives mean 0
and standard deviation 1.
"""
