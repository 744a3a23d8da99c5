"""What a criterion can read: parameters summed by unit, calibration statistics summed by unit, a shared cache."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from torch import Tensor, nn

from graphprune.calibration.moments import ConsumerStatistics
from graphprune.calibration.statistics import Statistics
from graphprune.errors import InputError
from graphprune.graph.groups import Group, Units
from graphprune.importance.combining import NORMALIZATIONS, REDUCTIONS, reduce_parts
from graphprune.importance.parameter_entries import AxisSums, ParameterEntries, axis_sums, entry_norms
from graphprune.rules.labels import ParameterAxis
from graphprune.utils.arrays import Ids, Scores
from graphprune.utils.checks import check_known, found_value, shown

EntryScores = Callable[[str, Tensor], "Tensor | None"]
"""``(name, parameter) -> scores`` of the parameter's shape; None: not counted."""

ConsumerScores = Callable[[ConsumerStatistics], tuple[Ids, Scores]]
"""``consumer -> (units, scores)``: one score for each entry of ``units``."""

T = TypeVar("T")


class _Replaced(Mapping[str, Tensor]):
    """Parameters, with others in the place of some."""

    def __init__(self, tensors: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> None:
        self._tensors, self._others = tensors, others

    def __getitem__(self, name: str) -> Tensor:
        return self._others[name] if name in self._others else self._tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


NEEDS_DATA = (
    "pass calibration=, an iterable of batches (tensors, tuples or dicts of arguments, or pairs (inputs, target) with "
    "loss_fn=)"
)
"""What to do where there are no calibration batches."""


@dataclass(eq=False)
class Context:
    """What a criterion can read besides the group that it scores.

    Attributes:
        model: the model.
        tensors: its parameters by name, and the buffers that inputs are multiplied with. Gradients are theirs.
        units: its units.
        seed: for criteria that draw random numbers.
        statistics: statistics of the calibration batches; None without calibration. See :attr:`data`.
        reduce: how sums over the parameter axes (or consumers) of a unit are combined: ``sum``, ``mean`` or ``max``.
        normalize: within each group ``none``, ``mean``, ``sum``, ``max`` or ``gaussian``
            (:data:`~graphprune.importance.combining.NORMALIZATIONS`). None: ``none`` for criteria whose scores are
            comparable between groups, ``mean`` for all others.
        in_effect: what the model makes of some parameters before it uses them (masked, normalized), by their names.

    Raises:
        InputError: ``reduce`` or ``normalize`` is unknown.
    """

    model: nn.Module
    tensors: Mapping[str, Tensor]
    units: Units
    seed: int = 0
    statistics: Statistics | None = None
    reduce: str = "sum"
    normalize: str | None = None
    in_effect: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    _cache: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_known("reduce", self.reduce, REDUCTIONS)
        if self.normalize is not None:
            check_known("normalize", self.normalize, NORMALIZATIONS)

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """The cached result of ``make``, for what all groups share; ``make`` is called once for each key."""
        if key not in self._cache:
            self._cache[key] = make()
        found: T = self._cache[key]
        return found

    @property
    def data(self) -> Statistics:
        """Statistics of the calibration batches.

        Raises:
            InputError: there are none.
        """
        if self.statistics is None:
            raise InputError(
                "importance: this criterion reads data",
                found="no calibration=",
                needed="calibration batches",
                do=NEEDS_DATA,
            )
        return self.statistics

    # ------------------------------------------------------------ parameters

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The parameters by name, as the model uses them."""
        return _Replaced(self.tensors, self.in_effect) if self.in_effect else self.tensors

    @cached_property
    def _parameters(self) -> ParameterEntries:
        return ParameterEntries(self.weights, self.units)

    def coupled_norms(self, group: Group, order: float) -> Scores:
        """For each unit the sum of |w|**order within each coupled axis, reduced over the axes. [units]"""
        sums = self.once(
            ("norms", order), lambda: self.over_parameters(lambda _, tensor, dims: entry_norms(tensor, dims, order))
        )
        return sums[group.unit_ids]

    def saliency(self, group: Group, entry_scores: EntryScores) -> Scores:
        """For each unit the scores of its entries, summed within each coupled axis and reduced over the axes.

        Args:
            group: the group to score.
            entry_scores: ``(name, parameter) -> scores`` of the parameter's shape, or None where it does not count.
                The parameter is detached, and the one :attr:`in_effect`; a gradient is that of :attr:`tensors` by the
                name. Pass the same function object for every group: all groups then share one pass over the parameters.

        Returns:
            [units]
        """

        def sums(name: str, tensor: Tensor, dims: Sequence[int]) -> list[Scores] | None:
            scores = entry_scores(name, tensor.detach())
            if scores is None:
                return None
            if not isinstance(scores, Tensor) or scores.shape != tensor.shape or scores.is_complex():
                raise _no_entry_scores(name, scores, tensor)
            return axis_sums(scores, dims)

        return self.once(("entries", entry_scores), lambda: self.over_parameters(sums))[group.unit_ids]

    def over_parameters(self, sums_of: AxisSums) -> Scores:
        """Sums over entries, for the units of all groups, in one pass over the parameters.

        Args:
            sums_of: ``(name, parameter, dims)`` -> for each of ``dims`` the sums over all other dimensions, or None
                where the parameter does not count.

        Returns:
            The sums, reduced over the coupled axes. Index them with ``group.unit_ids``. [classes]
        """
        return self._parameters.reduced(sums_of, self.reduce)

    def rows(self, group: Group, axis: ParameterAxis) -> Tensor:
        """The entries of one parameter that each unit has along one of the group's axes (``"conv1.weight[0]"``).

        The slices of a unit with several indexes along the axis (a head) are concatenated; units with fewer than the
        others are zero-padded. Of complex entries, real and imaginary parts are entries of their own.

        Returns:
            [units, entries], float64

        Raises:
            InputError: the group has no such axis, or it is one of a buffer.
        """
        if axis not in group.axes or group.axes[group.axes.index(axis)].parameter not in self.tensors:
            own = [one for one in group.axes if one.parameter in self.tensors]
            raise InputError(
                f"axis: {axis} is no axis of a parameter in group {group.name!r}",
                where=f"group {group.name!r}",
                found=f"{axis}, an axis of a buffer" if axis in group.axes else found_value(axis),
                needed=f"one of {', '.join(own)}",
                do="go through group.axes, and leave out those of which axis.parameter is not in context.tensors",
            )
        return self._parameters.rows(group, group.axes[group.axes.index(axis)])

    def has_axis(self, group: Group, axes: frozenset[ParameterAxis]) -> bool:
        """Whether one of the group's axes is among ``axes`` and belongs to a parameter."""
        return any(axis in axes and axis.parameter in self.tensors for axis in group.axes)

    # ------------------------------------------------------------ activations

    def over_consumers(self, group: Group, scores_of: ConsumerScores, products: bool = False) -> Scores | None:
        """For each unit the scores from its consumers, the weights that sum over it, reduced over consumers.

        Args:
            group: the group to score.
            scores_of: ``consumer -> (units, scores)``. Pass the same function object for every group.
            products: collect second moments [channels, channels] of the consumers' inputs too.

        Returns:
            [units]; None if no weight sums over the group's channels.

        Raises:
            InputError: there are no calibration batches.
        """
        scores, counts = self.once(("consumers", scores_of), lambda: self._consumed(scores_of, products))
        return scores[group.unit_ids] if counts[group.unit_ids].any() else None

    def _consumed(self, scores_of: ConsumerScores, products: bool) -> tuple[Scores, Ids]:
        """The scores reduced over consumers, and how many scores each class has. Both [classes]"""
        units, parts, values = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
        for number, consumer in enumerate(self.data.consumers(products)):
            found = scores_of(consumer)
            pair: list[Any] = (
                [np.asarray(one) for one in found] if isinstance(found, tuple | list) and len(found) == 2 else []
            )
            if not pair or pair[0].ndim != 1 or pair[0].shape != pair[1].shape:
                raise _no_consumer_scores(found, consumer)
            units.append(pair[0])
            parts.append(np.full(len(pair[0]), number))
            values.append(pair[1])
        unit, part, classes = np.concatenate(units), np.concatenate(parts), self._parameters.classes
        total = reduce_parts(self.reduce, unit, part, np.concatenate(values), classes)
        return total, np.bincount(unit, minlength=classes)


def _no_entry_scores(name: str, scores: object, tensor: Tensor) -> InputError:
    """What is wrong with what a function of :meth:`Context.saliency` returned."""
    return InputError(
        f"entry_scores: for {name} of shape {list(tensor.shape)} it returned {shown(scores)}",
        where=name,
        found=found_value(scores),
        needed=f"a tensor of shape {list(tensor.shape)}, one real score for each entry, or None",
        do="do not sum the scores of a parameter: context.saliency does that for each unit",
    )


def _no_consumer_scores(found: object, consumer: ConsumerStatistics) -> InputError:
    """What is wrong with what a function of :meth:`Context.over_consumers` returned."""
    return InputError(
        f"scores_of: for the consumer {', '.join(consumer.axes)} it returned {shown(found)}",
        where=", ".join(consumer.axes),
        found=found_value(found),
        needed="a pair (units, scores) of arrays, equally long",
        do="return consumer.unit, scores[consumer.place]",
    )
