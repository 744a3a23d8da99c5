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
from graphprune.graph.propagate import Labeling
from graphprune.graph.roles import CHANNELS, Roles
from graphprune.graph.segments import ranges
from graphprune.graph.solve import KINDS, ClassTable, Solution
from graphprune.rules.labels import Axis, ParameterAxis
from graphprune.tracing.sizes import Line
from graphprune.utils.arrays import Ids
from graphprune.utils.repeated_names import merge_names
from graphprune.utils.tables import Printed, Table

MANY = 1 << 15
"""Numbers of fewer groups take 2 bytes each."""


@dataclass(frozen=True)
class Occurrences:
    """Where units stand: unit ``unit[i]`` is needed by entry ``index[i]`` of parameter axis ``axis[i]``."""

    unit: Ids
    axis: Ids
    index: Ids

    def along(self, number: int) -> tuple[Ids, Ids]:
        """The units that the entries of one parameter axis need, and these entries."""
        here = slice(*np.searchsorted(self.axis, [number, number + 1]))
        return self.unit[here], self.index[here]


@dataclass(frozen=True, eq=False, repr=False)
class Group(Printed):
    """Units that occur in the same parameter axes. ``print(group)`` lists these, and what ties them.

    Attributes:
        name: the module (or parameter axis) that makes these channels; with ``:heads`` and the like for other roles.
        role: ``width`` (channels that a residual sum ties; where they are read in groups, those within each),
            ``mlp`` (inner channels), ``heads``, ``kv_groups`` (heads of keys and values that several query heads
            share), ``head_width`` (a channel within each head), ``groups`` (of a convolution or normalization),
            ``experts``.
        axes: the parameter axes, ``"layer1.0.conv1.weight[0]"``.
        unit_ids: the class of each unit in the solution, in the order of the first axis.
        scoring: of the role ``head_width``, channels of queries and keys: they go by ``qk_width=`` too.
    """

    name: str
    role: str
    axes: tuple[ParameterAxis, ...]
    unit_ids: Ids
    source: Callable[[tuple[str, ...]], tuple[Coupling, ...]] | None = None
    scoring: bool = False

    def asked_by(self, option: str) -> bool:
        """Does a ratio given by this name hold for the group?"""
        return self.role == option or (self.scoring and option == "qk_width")

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
class WhyFrozen:
    """Why something stays: what happened, the place in somebody's code, and how it is told; empty: it is not known."""

    text: str
    place: str = ""
    form: str = ", at {}"

    @classmethod
    def at(cls, text: str, line: Line | None) -> WhyFrozen:
        """With the line and its source, where the line is known."""
        return cls(text, describe_line(line) if line else "")

    @property
    def where(self) -> str:
        """The place as it stands behind the text."""
        return self.form.format(self.place) if self.place else ""

    def __str__(self) -> str:
        return self.text + self.where


@dataclass(frozen=True)
class Frozen:
    """A parameter axis of which ``count`` of ``size`` entries can never be removed, and why."""

    axis: str
    count: int
    size: int
    why: WhyFrozen

    @property
    def reason(self) -> str:
        """Why, and at which place in the code."""
        return str(self.why)

    def __str__(self) -> str:
        some = "" if self.count == self.size else f" ({self.count} of {self.size})"
        return f"{self.axis}{some}: {self.reason}"


class Units:
    """All units of a model, grouped. Built once from a solution; see :class:`Group`."""

    def __init__(self, labeling: Labeling, solution: Solution) -> None:
        self.labeling = labeling
        self.solution = solution
        named = [axis.name is not None for axis in labeling.labels.axes]
        self.axes: list[Axis] = [axis for axis, known in zip(labeling.labels.axes, named, strict=True) if known]
        self._runs = solution.items.occurrences(np.where(named, np.cumsum(named) - 1, -1))
        self.groups = self._groups()

    def labels_of(self, axis: Axis) -> Ids:
        """The classes of the entries of one axis."""
        return self.solution.of.of_range(axis.start, axis.size)

    @cached_property
    def occurrences(self) -> Occurrences:
        """Where all units stand, in the order of the axes."""
        runs, size = self._runs, self._runs.size
        place = ranges(np.zeros_like(size), size)
        goes_on = np.repeat(self.solution.items.size[runs.item] > 1, size)
        unit = np.repeat(self.solution.items.first[runs.item], size) + np.where(goes_on, place, 0)
        return Occurrences(unit, np.repeat(runs.axis, size), np.repeat(runs.index, size) + place)

    def entries_of(self, group: Group, number: int) -> tuple[Ids, Ids]:
        """Where the units of a group stand along one parameter axis: their numbers in the group, and the entries.

        In the order of the units, and of the entries of each.
        """
        place = np.full(self.solution.count, -1, np.int64)
        place[group.unit_ids] = np.arange(group.units)
        unit, index = self.occurrences.along(number)
        unit = place[unit]
        order = np.lexsort((index, unit))
        unit, index = unit[order], index[order]
        return unit[unit >= 0], index[unit >= 0]

    def _groups(self) -> tuple[Group, ...]:
        """Units by the axes they occur in, told apart by a sum of random numbers, one for each axis."""
        item, axis = self._runs.item, self._runs.axis
        if not len(item):
            return ()
        items = self.solution.items
        noise = np.random.default_rng(0).integers(1, 1 << 62, len(self.axes), dtype=np.int64)
        signature = items.kind.copy()
        np.add.at(signature, item, noise[axis] * np.where(items.size[item] > 1, 1, self._runs.size))
        first = np.full(len(items.size), len(item), np.int64)
        first[item[::-1]] = np.arange(len(item))[::-1]
        units = np.flatnonzero(first < len(item))
        return self._named(_partition(units, signature[units], first[units]))

    def _named(self, members: list[Ids]) -> tuple[Group, ...]:
        """Groups of these items."""
        items = self.solution.items
        group_of = np.full(len(items.size), -1, np.int64)
        group_of[[m[0] for m in members]] = np.arange(len(members))
        group = group_of[self._runs.item]
        pairs = np.stack([group, self._runs.axis], 1)[group >= 0]
        axes: list[list[int]] = [[] for _ in members]
        for number, axis in dict.fromkeys(map(tuple, pairs.tolist())):
            axes[number].append(axis)
        used: dict[str, int] = {}
        roles = Roles(self.labeling, self.solution)
        return tuple(
            self._group(roles, items.classes(m), [self.axes[i].parameter_axis for i in a], used)
            for m, a in zip(members, axes, strict=True)
        )

    def _group(self, roles: Roles, units: Ids, axes: list[ParameterAxis], used: dict[str, int]) -> Group:
        kind = self.kind_of(units)
        role = roles.role(kind, units)
        name = _group_name(axes[0], role)
        used[name] = used.get(name, 0) + 1
        return Group(
            name if used[name] == 1 else f"{name}#{used[name]}",
            role,
            tuple(axes),
            units,
            scoring=roles.scoring(kind, units),
        )

    def kind_of(self, units: Ids) -> str:
        """The kind that all units of a group have, of :data:`graphprune.graph.solve.KINDS`."""
        return KINDS[self.solution.kind[units[0]]]

    def is_grouped_stream(self, group: Group) -> bool:
        """Are these channels of a residual stream within the groups that a convolution or norm reads?"""
        return group.role in CHANNELS and self.kind_of(group.unit_ids) == "cell"

    @cached_property
    def group_of(self) -> ClassTable:
        """For every class the number of its group, or -1."""
        table = np.full(self.solution.count, -1, np.int16 if len(self.groups) < MANY else np.int32)
        for i, group in enumerate(self.groups):
            table[group.unit_ids] = i
        return table

    @property
    def last_group(self) -> int:
        """The group of the unit that stands last."""
        return int(self.group_of[self.solution.items.first[self._runs.item[-1]]])


def _partition(items: Ids, signature: Ids, first: Ids) -> list[Ids]:
    """Items by equal signature; groups, and the items in each, in the order of first occurrence."""
    order = np.lexsort((first, signature))
    items, signature, first = items[order], signature[order], first[order]
    starts = np.flatnonzero(np.diff(signature, prepend=signature[0] - 1))
    pieces = np.split(items, starts[1:])
    return [pieces[i] for i in np.argsort(first[starts])]


def _group_name(axis: ParameterAxis, role: str) -> str:
    plain = axis.tensor == "weight" and axis.dim == 0 and axis.module
    return str(axis.module if plain else axis) + ("" if role in CHANNELS else f":{role}")
