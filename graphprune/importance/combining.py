"""From numbers for entries of parameters to one for each unit: sum, reduce, normalize. The same for all criteria."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from graphprune.utils.arrays import Ids, Scores

REDUCTIONS = ("sum", "mean", "max")
"""Over the axes (or consumers) that go with a unit; ``max`` takes the value of the largest magnitude."""


def reduce_parts(reduce: str, unit: Ids, part: Ids, values: Scores, count: int) -> Scores:
    """One number for each of ``count`` units.

    Args:
        reduce: what is done with the parts of a unit; within a part, values are summed.
        unit, part, values: ``values[i]`` belongs to ``unit[i]`` and comes from ``part[i]``.
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
    largest[owner[order]] = sums[order]  # of several, the last is assigned
    return largest


_TINY = np.finfo(np.float64).tiny


def _by_deviation(scores: Scores) -> Scores:
    found: Scores = (scores - scores.mean()) / max(scores.std(), _TINY)
    return found


NORMALIZATIONS: dict[str, Callable[[Scores], Scores]] = {
    "none": lambda scores: scores,
    "mean": lambda scores: scores / max(np.abs(scores).mean(), _TINY),
    "max": lambda scores: scores / max(np.abs(scores).max(), _TINY),
    "gaussian": _by_deviation,
}
"""Within a group; all keep the order. ``mean`` and ``max`` are of magnitudes; ``gaussian``: mean 0, deviation 1."""


# ---------------------------------------------------------------- entries of one parameter

_BLOCK = 1 << 18
"""Entries looked at together: what fits a cache."""


def axis_sums(scores: Tensor, dims: Sequence[int]) -> list[Scores]:
    """For each of ``dims`` the sum of the scores of a parameter's entries over all other dimensions."""
    others = ([d for d in range(scores.ndim) if d != dim] for dim in dims)
    sums = (scores.sum(over, dtype=torch.float64) if over else scores.double() for over in others)
    return [total.detach().cpu().numpy() for total in sums]


def entry_norms(tensor: Tensor, dims: Sequence[int], order: float) -> list[Scores]:
    """For each of ``dims`` the sum of |w|**order over all others, in one pass and without a copy of the tensor."""
    tensor = tensor.detach() if tensor.dtype in (torch.float32, torch.float64) else tensor.detach().float()
    if tensor.ndim == 1:
        return [_powers(tensor, order, torch.empty_like(tensor)).double().cpu().numpy()]
    last = max(dims)
    flat = tensor.reshape(*tensor.shape[: last + 1], -1)
    flat = flat.squeeze(-1) if flat.shape[-1] == 1 else flat
    rows = max(1, _BLOCK // max(flat[:1].numel(), 1))
    space = torch.empty_like(flat[:rows])
    sums = {dim: torch.zeros(tensor.shape[dim], dtype=torch.float64, device=tensor.device) for dim in dims}
    for number, block in enumerate(flat.split(rows) if rows < len(flat) else (flat,)):
        powers = _powers(block, order, space[: len(block)])
        powers = powers.sum(-1) if powers.ndim > last + 1 else powers
        for dim, total in sums.items():
            others = [d for d in range(last + 1) if d != dim]
            part = powers.sum(others) if others else powers
            (total[number * rows :][: len(part)] if dim == 0 else total).add_(part)
    return [total.cpu().numpy() for total in sums.values()]


def _powers(block: Tensor, order: float, out: Tensor) -> Tensor:
    """|w|**order, written to ``out``: fresh memory for every block would cost more than the arithmetic."""
    if order == 2:
        return torch.mul(block, block, out=out)
    torch.abs(block, out=out)
    return out if order == 1 else out.pow_(order)
