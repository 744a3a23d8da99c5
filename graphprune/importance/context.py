"""What a criterion may look at."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from graphprune.calibration.moments import ConsumerStatistics
from graphprune.calibration.statistics import Statistics
from graphprune.errors import InputError
from graphprune.graph.groups import Group, Units
from graphprune.importance.combining import NORMALIZATIONS, REDUCTIONS, axis_sums, entry_norms, reduce_parts
from graphprune.rules.labels import ParameterAxis
from graphprune.utils.arrays import Ids, Scores

EntryScores = Callable[[str, Tensor], "Tensor | None"]


AxisSums = Callable[[str, Tensor, Sequence[int]], "list[Scores] | None"]


T = TypeVar("T")


@dataclass(eq=False)
class Context:
    """What a criterion may look at.

    Attributes:
        model: the model.
        tensors: its parameters by name.
        units: its units.
        seed: for criteria that draw numbers.
        statistics: what calibration batches say; None if there are none. See :attr:`data`.
        reduce: how the axes (or consumers) that go with a unit are combined: ``sum``, ``mean`` or ``max``.
        normalize: within each group ``none``, ``mean``, ``max`` or ``gaussian`` (:data:`NORMALIZATIONS`). None:
            ``none`` for criteria whose scores can be compared between groups as they are (:data:`COMPARABLE`),
            ``mean`` for all others.
    """

    model: nn.Module
    tensors: Mapping[str, Tensor]
    units: Units
    seed: int = 0
    statistics: Statistics | None = None
    reduce: str = "sum"
    normalize: str | None = None
    _known: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        _check_known("reduce", self.reduce, REDUCTIONS)
        if self.normalize is not None:
            _check_known("normalize", self.normalize, NORMALIZATIONS)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` returned the first time; for what all groups share."""
        if key not in self._known:
            self._known[key] = make()
        found: T = self._known[key]
        return found

    @property
    def data(self) -> Statistics:
        """Statistics of the calibration data.

        Raises:
            InputError: there are none.
        """
        if self.statistics is None:
            raise InputError(
                "importance: this criterion reads data; pass calibration=, an iterable of batches (tensors, tuples or "
                "dicts of arguments, or pairs (inputs, target) with loss_fn=)"
            )
        return self.statistics

    # ------------------------------------------------------------ parameters

    def coupled_norms(self, group: Group, order: float) -> Scores:
        """For each unit |w|**order, summed within each coupled axis and reduced over them. [units]"""
        sums = self.once(
            ("norms", order), lambda: self.over_parameters(lambda _, tensor, dims: entry_norms(tensor, dims, order))
        )
        return sums[group.unit_ids]

    def saliency(self, group: Group, entry_scores: EntryScores) -> Scores:
        """For each unit the scores of its parameters' entries, summed within each coupled axis and reduced over them.

        Args:
            group: the units that are asked for.
            entry_scores: ``(name, parameter) -> scores`` of the parameter's shape, or None where it does not count.
                All groups are answered from one pass if this is the same function object for all of them.

        Returns:
            [units]
        """

        def sums(name: str, tensor: Tensor, dims: Sequence[int]) -> list[Scores] | None:
            scores = entry_scores(name, tensor.detach())
            return None if scores is None else axis_sums(scores, dims)

        return self.once(("entries", entry_scores), lambda: self.over_parameters(sums))[group.unit_ids]

    def over_parameters(self, sums_of: AxisSums) -> Scores:
        """One pass over all parameters, for all groups.

        Args:
            sums_of: ``(name, parameter, dims)`` -> for each of ``dims`` the sums over all other dimensions, or None
                where the parameter does not count.

        Returns:
            The sums, reduced over the axes of each class. [classes]
        """
        occurrences = self.units.occurrences
        values, counted = np.zeros(len(occurrences.unit)), np.zeros(len(occurrences.unit), bool)
        for name, places in self._places.items():
            found = sums_of(name, self.tensors[name], list(places))
            for here, sums in zip(places.values(), found or (), strict=found is not None):
                values[here] = sums[occurrences.index[here]]
                counted[here] = True
        unit, axis, values = occurrences.unit[counted], occurrences.axis[counted], values[counted]
        return reduce_parts(self.reduce, unit, axis, values, self._classes)

    @property
    def _classes(self) -> int:
        return len(self.units.solution.reason)

    @cached_property
    def _places(self) -> dict[str, dict[int, slice]]:
        """For every parameter and dimension that units have a part in, where its occurrences are."""
        bounds = np.searchsorted(self.units.occurrences.axis, np.arange(len(self.units.axes) + 1))
        found: dict[str, dict[int, slice]] = {}
        for axis, start, stop in zip(self.units.axes, bounds, bounds[1:], strict=False):
            name = axis.parameter_axis
            if name.parameter in self.tensors and stop > start:
                found.setdefault(name.parameter, {})[name.dim] = slice(start, stop)
        return found

    def rows(self, group: Group, axis: ParameterAxis) -> Tensor:
        """What each unit has of a parameter along one of its axes, ``"conv1.weight[0]"``: [units, entries], double.

        A unit with several entries along the axis (a head) has one after the other; fewer than others have are filled
        up with zeros.
        """
        entry = torch.from_numpy(self._entries(group, self._places[axis.parameter][axis.dim]))
        tensor = self.tensors[axis.parameter].detach().unsqueeze(-1).movedim(axis.dim, 0).flatten(1)
        entry = entry.to(tensor.device)
        return (tensor[entry.clamp(min=0)].double() * (entry >= 0).unsqueeze(-1)).flatten(1)

    def _entries(self, group: Group, here: slice) -> Ids:
        """The entries of an axis that each unit of a group has, in order; -1 where it has fewer. [units, most]"""
        place = np.full(self._classes, -1, np.int64)
        place[group.unit_ids] = np.arange(group.units)
        unit, index = place[self.units.occurrences.unit[here]], self.units.occurrences.index[here]
        order = np.lexsort((index, unit))
        unit, index = unit[order], index[order]
        unit, index = unit[unit >= 0], index[unit >= 0]
        number = np.arange(len(unit)) - np.searchsorted(unit, unit)
        entries = np.full((group.units, int(number.max(initial=0)) + 1), -1, np.int64)
        entries[unit, number] = index
        return entries

    def has_axis(self, group: Group, axes: frozenset[ParameterAxis]) -> bool:
        """Does a group have one of these axes, of a parameter?"""
        return any(axis in axes and axis.parameter in self.tensors for axis in group.axes)

    # ------------------------------------------------------------ activations

    def over_consumers(
        self, group: Group, scores_of: Callable[[ConsumerStatistics], tuple[Ids, Scores]], products: bool = False
    ) -> Scores | None:
        """For each unit what ``scores_of(consumer)`` gives, as units and their scores, reduced over consumers. [units]

        None where no consumer of the group was seen: its channels are not summed over by any weight.

        Raises:
            InputError: there are no calibration data.
        """
        table = self.once(("consumers", scores_of), lambda: self._consumed(scores_of, products))
        return table[0][group.unit_ids] if table[1][group.unit_ids].any() else None

    def _consumed(
        self, scores_of: Callable[[ConsumerStatistics], tuple[Ids, Scores]], products: bool
    ) -> tuple[Scores, Ids]:
        """The reduced scores, and how many there were of each. Both [classes]"""
        units, parts, values = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
        for number, consumer in enumerate(self.data.consumers(products)):
            unit, scores = scores_of(consumer)
            units.append(unit)
            parts.append(np.full(len(unit), number))
            values.append(scores)
        unit, part = np.concatenate(units), np.concatenate(parts)
        total = reduce_parts(self.reduce, unit, part, np.concatenate(values), self._classes)
        return total, np.bincount(unit, minlength=self._classes)


def _check_known(argument: str, name: str, known: Sequence[str] | Mapping[str, Any]) -> None:
    if name not in known:
        raise InputError(f"{argument}: {name!r} is not known; use one of {', '.join(map(repr, known))}")
