"""Sums over the entries of parameters: along each dimension of one parameter, and for every unit of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from graphprune.graph.groups import Group, Units
from graphprune.importance.combining import reduce_parts
from graphprune.rules.labels import ParameterAxis
from graphprune.utils.arrays import Ids, Scores
from graphprune.utils.complex_numbers import real_parts

AxisSums = Callable[[str, Tensor, Sequence[int]], "list[Scores] | None"]
"""``(name, parameter, dims)`` -> for each of ``dims`` the sums over all other dimensions; None: not counted."""


# ---------------------------------------------------------------- one parameter

_BLOCK = 1 << 18
"""Entries processed at a time, so that a block fits into the cache."""


def axis_sums(scores: Tensor, dims: Sequence[int]) -> list[Scores]:
    """For each of ``dims`` the sum of the scores of a parameter's entries over all other dimensions."""
    others = ([d for d in range(scores.ndim) if d != dim] for dim in dims)
    sums = (scores.sum(over, dtype=torch.float64) if over else scores.double() for over in others)
    return [total.detach().cpu().numpy() for total in sums]


def entry_norms(tensor: Tensor, dims: Sequence[int], order: float) -> list[Scores]:
    """For each of ``dims`` the sum of |w|**order over all others, in one pass and without a copy of the tensor.

    Of complex entries |w| is the modulus.
    """
    tensor = (tensor.abs() if tensor.is_complex() else tensor).detach()
    if tensor.ndim == 1 and order == 2 and tensor.dtype is torch.float32 and tensor.device.type == "cpu":
        entries = tensor.numpy()  # of vectors, a model has many short ones
        return [np.square(entries).astype(np.float64)] * len(dims)
    dtype = tensor.dtype if tensor.dtype in (torch.float32, torch.float64) else torch.float32
    if tensor.numel() > _BLOCK and tensor.ndim > 1:
        return _norms_by_block(tensor, dims, order, dtype)
    powers = _powers(tensor, order, torch.empty_like(tensor, dtype=dtype))
    sums = (powers.sum([d for d in range(powers.ndim) if d != dim]) if powers.ndim > 1 else powers for dim in dims)
    return [total.double().cpu().numpy() for total in sums]


def _norms_by_block(tensor: Tensor, dims: Sequence[int], order: float, dtype: torch.dtype) -> list[Scores]:
    last = max(dims)
    flat = tensor.reshape(*tensor.shape[: last + 1], -1)
    flat = flat.squeeze(-1) if flat.shape[-1] == 1 else flat
    rows = max(1, _BLOCK // max(flat[:1].numel(), 1))
    space = torch.empty_like(flat[:rows], dtype=dtype)
    sums = {dim: torch.zeros(tensor.shape[dim], dtype=torch.float64, device=tensor.device) for dim in dims}
    for number, block in enumerate(flat.split(rows) if rows < flat.shape[0] else (flat,)):
        powers = _powers(block, order, space[: block.shape[0]])
        powers = powers.sum(-1) if powers.ndim > last + 1 else powers
        for dim, total in sums.items():
            others = [d for d in range(last + 1) if d != dim]
            part = powers.sum(others) if others else powers
            (total[number * rows :][: part.shape[0]] if dim == 0 else total).add_(part)
    return [total.cpu().numpy() for total in sums.values()]


def _powers(block: Tensor, order: float, out: Tensor) -> Tensor:
    """|w|**order, written to ``out``: allocating memory for every block would cost more than the arithmetic."""
    block = block if block.dtype == out.dtype else out.copy_(block)
    if order == 2:
        return torch.mul(block, block, out=out)
    torch.abs(block, out=out)
    return out if order == 1 else out.pow_(order)


# ---------------------------------------------------------------- all parameters of a model


@dataclass(frozen=True, eq=False)
class ParameterEntries:
    """Which entries of a model's parameters belong to which unit.

    Attributes:
        tensors: the parameters by name.
        units: the units of the model.
    """

    tensors: Mapping[str, Tensor]
    units: Units

    @property
    def classes(self) -> int:
        """The number of classes of labels; a unit's id is the number of its class."""
        return self.units.solution.count

    def reduced(self, sums_of: AxisSums, reduce: str) -> Scores:
        """Sums of entries, within each parameter axis of a unit, reduced over the axes. [classes]"""
        occurrences = self.units.occurrences
        sums, end = [np.zeros(0)], 0
        begins = np.full(len(self.units.axes), -1)  # where the sums along an axis begin among all
        for name, axes in self._axes.items():
            found = sums_of(name, self.tensors[name], list(axes))
            for number, along in zip(axes.values(), found or (), strict=found is not None):
                sums.append(along)
                begins[number], end = end, end + len(along)
        begin = begins[occurrences.axis]
        counted = begin >= 0
        unit, axis, index = occurrences.unit[counted], occurrences.axis[counted], (begin + occurrences.index)[counted]
        return reduce_parts(reduce, unit, axis, np.concatenate(sums)[index], self.classes)

    @cached_property
    def _bounds(self) -> list[int]:
        """Where the occurrences of units in each axis begin, and where the last ones end."""
        bounds: list[int] = np.searchsorted(self.units.occurrences.axis, np.arange(len(self.units.axes) + 1)).tolist()
        return bounds

    @cached_property
    def _axes(self) -> dict[str, dict[int, int]]:
        """The number of the axis of each dimension of each parameter in which units occur."""
        bounds = self._bounds
        found: dict[str, dict[int, int]] = {}
        for number, axis in enumerate(self.units.axes):
            name = axis.parameter_axis
            if bounds[number + 1] > bounds[number] and name.parameter in self.tensors:
                found.setdefault(name.parameter, {})[name.dim] = number
        return found

    def rows(self, group: Group, axis: ParameterAxis) -> Tensor:
        """The entries of one parameter that each unit has along an axis, flattened and zero-padded; float64.

        Of complex ones, these are real and imaginary parts.

        Returns:
            [units, entries]
        """
        entry = torch.from_numpy(self._indexes(group, self._axes[axis.parameter][axis.dim]))
        tensor = real_parts(self.tensors[axis.parameter].detach()).unsqueeze(-1)
        tensor = tensor.movedim(axis.dim, 0).flatten(1)
        entry = entry.to(tensor.device)
        return (tensor[entry.clamp(min=0)].double() * (entry >= 0).unsqueeze(-1)).flatten(1)

    def _indexes(self, group: Group, axis: int) -> Ids:
        """The indexes along an axis that each unit of a group has, in order, padded with -1. [units, most]"""
        unit, index = self.units.entries_of(group, axis)
        number = np.arange(len(unit)) - np.searchsorted(unit, unit)
        indexes = np.full((group.units, int(number.max(initial=0)) + 1), -1, np.int64)
        indexes[unit, number] = index
        return indexes
