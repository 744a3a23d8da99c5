"""How important each unit is: one score per unit of a group, over all parameters coupled with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from graphprune.errors import InputError
from graphprune.groups import Group, Units

Scores = NDArray[np.float64]
Importance = Callable[[Group, "Context"], Tensor]


@dataclass
class Context:
    """What a criterion may look at: the parameters by name, the units, and a seed."""

    tensors: Mapping[str, Tensor]
    units: Units
    seed: int = 0
    _norms: dict[float, Scores] = field(default_factory=dict)

    def coupled_norms(self, group: Group, order: float) -> Scores:
        """For each unit the sum of |w|**order over all parameter entries that go with it. Shape [units]."""
        if order not in self._norms:
            self._norms[order] = self._sum_over_axes(order)
        return self._norms[order][group.atoms]

    def _sum_over_axes(self, order: float) -> Scores:
        occurrences = self.units.occurrences
        sums = np.zeros(len(occurrences.unit))
        bounds = np.searchsorted(occurrences.axis, np.arange(len(self.units.axes) + 1))
        wanted: dict[str, list[tuple[int, slice]]] = {}
        for axis, start, stop in zip(self.units.axes, bounds, bounds[1:], strict=False):
            name, dim = axis.name[:-1].rsplit("[", 1)
            if name in self.tensors and stop > start:
                wanted.setdefault(name, []).append((int(dim), slice(start, stop)))
        for name, places in wanted.items():
            norms = entry_norms(self.tensors[name], [dim for dim, _ in places], order)
            for (_, here), values in zip(places, norms, strict=True):
                sums[here] = values[occurrences.index[here]]
        total: Scores = np.bincount(occurrences.unit, sums, len(self.units.solution.reason)).astype(np.float64)
        return total


_BLOCK = 1 << 18
"""Entries looked at together: what fits a cache."""


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


def magnitude(order: float) -> Importance:
    """Group magnitude: the mean of |w|**order over all coupled parameters, relative to the group's mean.

    Source: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, extended to coupled parameters as in
    Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023.
    """

    def score(group: Group, context: Context) -> Tensor:
        norms = torch.from_numpy(context.coupled_norms(group, order))
        return norms / norms.mean().clamp(min=torch.finfo(torch.float64).tiny)

    return score


def random(group: Group, context: Context) -> Tensor:
    """Random scores, the same for the same seed and group name on every machine."""
    words = np.frombuffer(group.name.encode(), np.uint8)
    generator = np.random.default_rng([context.seed, *words.tolist()])
    return torch.from_numpy(generator.random(group.units))


CRITERIA: dict[str, Importance] = {"l1": magnitude(1), "l2": magnitude(2), "random": random}
WEIGHTLESS = frozenset((random,))
"""Criteria that read no weights: they work on a model on ``meta``."""


def criterion(importance: str | Importance) -> Importance:
    """The criterion by name, or a callable ``(group, context) -> Tensor of shape [units]`` as it is."""
    if callable(importance):
        return importance
    if importance not in CRITERIA:
        raise InputError(
            f"importance: {importance!r} is not known; use one of {', '.join(map(repr, CRITERIA))}, or a callable "
            "(group, context) -> 1-D tensor with one score per unit"
        )
    return CRITERIA[importance]
