"""How important each unit is: one score per unit of a group, over all parameters coupled with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    _norms: dict[tuple[float, int], Scores] = field(default_factory=dict)

    def coupled_norms(self, group: Group, order: float) -> Scores:
        """For each unit the sum of |w|**order over all parameter entries that go with it. Shape [units]."""
        table = self._table(order)
        return table[group.atoms]

    def _table(self, order: float) -> Scores:
        key = (order, 0)
        if key not in self._norms:
            self._norms[key] = self._sum_over_axes(order)
        return self._norms[key]

    def _sum_over_axes(self, order: float) -> Scores:
        occurrences = self.units.occurrences
        total = np.zeros(len(self.units.solution.reason))
        starts = np.searchsorted(occurrences.axis, np.arange(len(self.units.axes) + 1))
        for i, axis in enumerate(self.units.axes):
            here = slice(starts[i], starts[i + 1])
            name, dim = axis.name[:-1].rsplit("[", 1)
            tensor = self.tensors.get(name)
            if tensor is not None and starts[i + 1] > starts[i]:
                sums = entry_norms(tensor, int(dim), order)
                np.add.at(total, occurrences.unit[here], sums[occurrences.index[here]])
        return total


def entry_norms(tensor: Tensor, dim: int, order: float) -> Scores:
    """The sum of |w|**order over all other dimensions, for every entry of ``dim``. Needs no copy of the tensor."""
    others = [d for d in range(tensor.ndim) if d != dim]
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    norms = torch.linalg.vector_norm(tensor.detach(), order, dim=others, dtype=wide) if others else tensor.detach().abs()
    return norms.to(device="cpu", dtype=torch.float64).pow(order).numpy()


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
