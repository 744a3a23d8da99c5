"""Units and groups: what can be removed, what goes with it, and what cannot go.

A *unit* is an unit of :mod:`graphprune.graph.solve` that reaches a parameter: the smallest thing that can be removed. A
*group* is the set of units that occur in the same parameter axes, so that one can be ranked against another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from graphprune.graph.couplings import Coupling, describe_line, ties_of
from graphprune.graph.propagate import Labelling
from graphprune.graph.roles import CHANNELS, Roles
from graphprune.graph.solve import KINDS, Solution
from graphprune.rules.labels import Axis, ParameterAxis
from graphprune.utils.arrays import Ids
from graphprune.utils.repeated_names import merge_names
from graphprune.utils.tables import Printed, Table


@dataclass(frozen=True)
class Occurrences:
    """Where units stand: unit ``unit[i]`` is needed by entry ``index[i]`` of parameter axis ``axis[i]``."""

    unit: Ids
    axis: Ids
    index: Ids


@dataclass(frozen=True, eq=False, repr=False)
class Group(Printed):
    """Units that occur in the same parameter axes. ``print(group)`` lists these, and what ties them.

    Attributes:
        name: the module (or parameter axis) that makes these channels; with ``:heads`` and the like for other roles.
        role: ``width`` (channels that a residual sum ties), ``mlp`` (inner channels), ``heads``, ``kv_groups`` (heads
            of keys and values that several query heads share), ``head_width`` (a channel within each head), ``groups``
            (of a convolution or normalization), ``experts``.
        axes: the parameter axes, ``"layer1.0.conv1.weight[0]"``.
        unit_ids: the class of each unit in the solution, in the order of the first axis.
    """

    name: str
    role: str
    axes: tuple[ParameterAxis, ...]
    unit_ids: Ids
    source: Callable[[tuple[str, ...]], tuple[Coupling, ...]] | None = None

    @property
    def units(self) -> int:
        """How many units can be removed independently."""
        return len(self.unit_ids)

    @property
    def couplings(self) -> tuple[Coupling, ...]:
        """Why these axes go together: the operations and source lines that tie them."""
        return self.source(self.axes) if self.source else ()

    def _summary(self) -> str:
        return f"Group {self.name}: {self.units} units ({self.role}) in {len(self.axes)} parameter axes"

    def _parts(self) -> Iterator[str | Table]:
        yield self._summary()
        yield Table("axes:", ("",), tuple((axis,) for axis in self.axes), many=12)
        if ties := ties_of(self.couplings):
            rows = tuple((tie.op, ", ".join(merge_names(tie.axes)), describe_line(tie.line)) for tie in ties)
            yield Table("because:", ("operation", "axes", "line"), rows)


@dataclass(frozen=True)
class Frozen:
    """A parameter axis of which ``count`` of ``size`` entries can never be removed, and why."""

    axis: str
    count: int
    size: int
    reason: str

    def __str__(self) -> str:
        some = "" if self.count == self.size else f" ({self.count} of {self.size})"
        return f"{self.axis}{some}: {self.reason}"


class Units:
    """All units of a model, grouped. Built once from a solution; see :class:`Group`."""

    def __init__(self, labelling: Labelling, solution: Solution) -> None:
        self.labelling = labelling
        self.solution = solution
        self.axes: list[Axis] = [a for a in labelling.labels.axes if a.name is not None]
        self.occurrences = self._occurrences()
        self.groups = self._groups()

    def labels_of(self, axis: Axis) -> Ids:
        """The classes of the entries of one axis."""
        return self.solution.of[axis.start : axis.start + axis.size]

    def _occurrences(self) -> Occurrences:
        if not self.axes:
            empty = np.zeros(0, np.int64)
            return Occurrences(empty, empty, empty)
        sizes = np.array([a.size for a in self.axes])
        number = np.repeat(np.arange(len(self.axes)), sizes)
        index = np.arange(len(number)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        classes = np.concatenate([self.labels_of(a) for a in self.axes])
        unit, axis, index = self.solution.expand(classes, number, index)
        if self.solution.levels:
            order = np.argsort(axis, kind="stable")
            unit, axis, index = unit[order], axis[order], index[order]
        return Occurrences(unit, axis, index)

    def _groups(self) -> tuple[Group, ...]:
        """Units by the axes they occur in, told apart by a sum of random numbers, one for each axis."""
        unit, axis = self.occurrences.unit, self.occurrences.axis
        if not len(unit):
            return ()
        classes = len(self.solution.reason)
        noise = np.random.default_rng(0).integers(1, 1 << 62, len(self.axes), dtype=np.int64)
        signature = self.solution.kind.copy()
        np.add.at(signature, unit, noise[axis])
        first = np.full(classes, len(unit), np.int64)
        first[unit[::-1]] = np.arange(len(unit))[::-1]
        units = np.flatnonzero(first < len(unit))
        return self._named(_partition(units, signature[units], first[units]))

    def _named(self, members: list[Ids]) -> tuple[Group, ...]:
        group_of = np.full(len(self.solution.reason), -1, np.int64)
        group_of[[m[0] for m in members]] = np.arange(len(members))
        group = group_of[self.occurrences.unit]
        pairs = np.stack([group, self.occurrences.axis], 1)[group >= 0]
        axes: list[list[int]] = [[] for _ in members]
        for number, axis in dict.fromkeys(map(tuple, pairs.tolist())):
            axes[number].append(axis)
        used: dict[str, int] = {}
        self._roles = Roles(self.labelling, self.solution)
        return tuple(
            self._group(m, [self.axes[i].parameter_axis for i in a], used) for m, a in zip(members, axes, strict=True)
        )

    def _group(self, units: Ids, axes: list[ParameterAxis], used: dict[str, int]) -> Group:
        role = self._roles.role(self.kind_of(units), units)
        name = _group_name(axes[0], role)
        used[name] = used.get(name, 0) + 1
        return Group(name if used[name] == 1 else f"{name}#{used[name]}", role, tuple(axes), units)

    def kind_of(self, units: Ids) -> str:
        """The kind that all units of a group have, of :data:`graphprune.graph.solve.KINDS`."""
        return KINDS[self.solution.kind[units[0]]]

    @cached_property
    def group_of(self) -> Ids:
        """For every class the number of its group, or -1."""
        table = np.full(len(self.solution.reason), -1, np.int64)
        for i, group in enumerate(self.groups):
            table[group.unit_ids] = i
        return table


def _partition(units: Ids, signature: Ids, first: Ids) -> list[Ids]:
    """Units by equal signature; groups, and the units in each, in the order of first occurrence."""
    order = np.lexsort((first, signature))
    units, signature, first = units[order], signature[order], first[order]
    starts = np.flatnonzero(np.diff(signature, prepend=signature[0] - 1))
    pieces = np.split(units, starts[1:])
    return [pieces[i] for i in np.argsort(first[starts])]


def _group_name(axis: ParameterAxis, role: str) -> str:
    plain = axis.tensor == "weight" and axis.dim == 0 and axis.module
    return str(axis.module if plain else axis) + ("" if role in CHANNELS else f":{role}")
