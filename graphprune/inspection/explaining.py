"""Why things are as they are in a graph, in sentences: what goes with a channel, what it saves, why it is frozen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from graphprune.graph.analysis import Analysis
from graphprune.graph.candidates import candidates, held_width, reason_of_kind, tie_of, tied_by
from graphprune.graph.cost import Cost
from graphprune.graph.coupled_steps import CoupledStep, make_coupled_steps
from graphprune.graph.couplings import operation_name
from graphprune.graph.frozen import frozen_axes, heads_that_stay
from graphprune.graph.groups import Frozen, Group, WhyFrozen
from graphprune.graph.heads_in_one import why_one_stays
from graphprune.graph.parameter_uses import consumed_axes
from graphprune.inspection.links import links_in_words
from graphprune.inspection.remedies import remedy
from graphprune.inspection.subjects import Subject, find_subject
from graphprune.inspection.wording import UNITS, amounts, joined, layer_of, listed, shorten_paths
from graphprune.rules.labels import ParameterAxis
from graphprune.utils.tables import Printed, Table

_IN_FULL = 4
"""A subject that takes part in more groups gets a table of them."""


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(Printed):
    """The answer to a question about a part of a model; ``print`` shows it.

    Attributes:
        name: what the question was about.
        groups: the groups that it takes part in.
        frozen: what of it cannot be removed, and why.
        parts: the answer, as sentences and tables.
    """

    name: str
    groups: tuple[Group, ...]
    frozen: tuple[Frozen, ...]
    parts: tuple[str | Table, ...]

    def _summary(self) -> str:
        return f"Explanation of {self.name}: {len(self.groups)} groups, {len(self.frozen)} frozen axes"

    def _parts(self) -> Iterator[str | Table]:
        yield from self.parts


_FREE = "Plans may take units of its groups; where one leaves them, print(plan) says why."


def _entries(number: int) -> str:
    return "an entry" if number == 1 else f"{number} entries"


class Explainer:
    """Answers questions about one graph, and keeps what it has found out for the next one."""

    def __init__(self, graph: Analysis) -> None:
        self.graph = graph

    def explain(self, what: object) -> Explanation:
        """What goes with a part of the model, why, and what it saves; see :meth:`graphprune.ChannelGraph.explain`."""
        subject = find_subject(self.graph, what)
        return self._explanation(subject, self.sentences(subject))

    def why_frozen(self, what: object) -> Explanation:
        """Why a part of the model cannot be removed; see :meth:`graphprune.ChannelGraph.why_frozen`."""
        subject = find_subject(self.graph, what)
        return self._explanation(subject, self.reasons(subject))

    def _explanation(self, subject: Subject, parts: Iterable[str | Table]) -> Explanation:
        return Explanation(subject.name, self._groups_of(subject.axes), self._frozen_of(subject), tuple(parts))

    # ---------------------------------------------------------------- whole answers

    def sentences(self, subject: Subject) -> Iterator[str | Table]:
        """What goes with a subject, what it saves, and what of it is frozen."""
        if subject.group is not None:
            yield from self._group(subject.group)
            return
        made = self._groups_of(tuple(axis for axis in subject.axes if axis not in self._consumed))
        read = self._groups_of(tuple(axis for axis in subject.axes if axis in self._consumed))
        if len(made) > _IN_FULL:
            yield self._overview(subject, made, read)
        else:
            yield from self._in_full(subject, made, read)
        yield from self._stays(subject)
        if not (made or read or self._frozen_of(subject)):
            yield f"{subject.name} has no channels that the traced run uses."

    def reasons(self, subject: Subject) -> Iterator[str | Table]:
        """What of a subject is frozen, why, and what to do about it."""
        yield from self._stays(subject)
        groups = self._groups_of(subject.axes)
        if not self._frozen_of(subject):
            names = [f"group {group.name}" for group in groups]
            shown = [*names[:4], f"{len(names) - 4} more"] if len(names) > 4 else names
            instead = f"it takes part in {joined(shown)}" if names else "it has no channels that the traced run uses"
            yield f"Nothing of {subject.name} is frozen: {instead}."
        for group in groups:
            yield from self._heads(group)
        free = [group for group in groups if self._candidates[0][group.unit_ids].any()]
        stuck = [group for group in free if not self._steps_of(group)]
        named = {one.axis for one in self._frozen}
        yield from (self._tied(g, f"the units of group {g.name}") for g in stuck if named.isdisjoint(g.axes))
        made = self._groups_of(tuple(axis for axis in subject.axes if axis not in self._consumed))
        if any(group in made and group not in stuck for group in free):
            yield _FREE

    def _in_full(self, subject: Subject, made: tuple[Group, ...], read: tuple[Group, ...]) -> Iterator[str | Table]:
        """Groups that plans may take from are explained, others named."""
        free = [group for group in made if self._candidates[0][group.unit_ids].any()]
        for group in free:
            yield f"{subject.name} takes part in group {group.name}."
            yield from self._group(group)
        for group in made:
            if group not in free:
                yield f"{subject.name} takes part in group {group.name}: {self._kind(group)}"
                yield from self._taken(group)
        for group in read:
            if group not in made:
                yield f"{subject.name} reads group {group.name}: {self._kind(group)}"

    def _overview(self, subject: Subject, made: tuple[Group, ...], read: tuple[Group, ...]) -> Table:
        both = tuple(dict.fromkeys((*made, *read)))
        rows = tuple((g.name, g.role, str(g.units), "has" if g in made else "reads") for g in both)
        title = f"{subject.name} takes part in {len(both)} groups; explain one of them, or a layer:"
        return Table(title, ("group", "role", "units", "it"), rows, numbers=("units",))

    # ---------------------------------------------------------------- one group

    def _kind(self, group: Group) -> str:
        return f"{group.units} {UNITS[group.role][1]} ({group.role})."

    def _group(self, group: Group) -> Iterator[str | Table]:
        one = UNITS[group.role][0]
        yield f"Group {group.name}: {self._kind(group)}"
        yield f"Removing one {one} removes {self._removed(group)}."
        clauses = links_in_words(group.couplings, group.role, self._operators, self._consumed)
        if clauses:
            yield "They go together because"
            yield from (f"- {clause};" for clause in clauses[:-1])
            yield f"- {clauses[-1]}."
        yield self._saves(group, one)
        yield from self._heads(group)
        yield from self._taken(group)

    def _heads(self, group: Group) -> Iterator[str]:
        """Why the heads around the channels of a group stay."""
        held = [str(self._held_heads[unit]) for unit in group.unit_ids.tolist() if unit in self._held_heads]
        if held and group.role == "head_width":
            advice = remedy(held[0])
            reason = shorten_paths(held[0]).rstrip(".")
            yield f"The heads around the channels of {group.name} stay: {reason}.{' ' if advice else ''}{advice}"

    def _removed(self, group: Group) -> str:
        """The entries of parameters that the first unit takes with it."""
        occurrences = self.graph.units.occurrences
        counts = Counter(occurrences.axis[occurrences.unit == group.unit_ids[0]].tolist())
        found: dict[tuple[int, bool], list[str]] = {}
        for number, count in counts.items():
            axis = self.graph.units.axes[number].parameter_axis
            found.setdefault((count, axis in self._consumed), []).append(layer_of(axis))
        inputs = {True: "the inputs of ", False: ""}
        return joined(f"{_entries(n)} of {inputs[read]}{listed(layers)}" for (n, read), layers in found.items())

    def _saves(self, group: Group, one: str) -> str:
        whole = self.graph.costs.dense
        macs, params = self.graph.costs.shares(self.graph.units)[:, self.graph.units.group_of[group.unit_ids[0]]]
        prices = self.graph.costs.prices(np.ones(self.graph.solution.count, bool), self.graph.costs.kinds)[
            :, group.unit_ids
        ]
        differ = not np.allclose(prices, prices[:, :1])
        first = "The first" if differ else f"One {one} less saves"
        saves = f"{first} {one} saves" if differ else first
        others = "; others save other amounts" if differ else ""
        return (
            f"{saves} {amounts(self._saved(group, whole), whole)}{others}; "
            f"the group takes part in {macs:.1%} of the MACs and {params:.1%} of the parameters."
        )

    def _saved(self, group: Group, whole: Cost) -> Cost:
        """By how much the cost falls without the first unit."""
        less = self.graph.costs.at(self.graph.solution.alive(group.unit_ids[:1]))
        return Cost({kind: count - less[kind] for kind, count in whole.counts.items()})

    def _taken(self, group: Group) -> Iterator[str]:
        """How plans may take units of a group."""
        free, constraints = self._candidates
        held = [constraints.frozen[u] for u in group.unit_ids.tolist() if u in constraints.frozen]
        if held:
            yield f"{len(held)} of them stay: {shorten_paths(str(held[0]))}."
        if free[group.unit_ids].any():
            yield from self._steps(group)
        elif not held:
            yield f"Plans leave them: {shorten_paths(self._left(group)).rstrip('.')}."

    def _left(self, group: Group) -> str:
        """Why plans take nothing from a group that no size in the program holds."""
        kind, first = self.graph.units.kind_of(group.unit_ids), int(group.unit_ids[0])
        if group.units == 1:
            return why_one_stays(self.graph, first)
        stuck = held_width(self.graph).get(first) if kind == "cell" else None
        return str(stuck) if stuck else reason_of_kind(kind, (), group.role)

    def _steps(self, group: Group) -> Iterator[str]:
        number = int(self.graph.units.group_of[group.unit_ids[0]])
        mine = self._steps_of(group)
        if not mine:
            yield self._tied(group)
            return
        each = {part.group: n for part, n in zip(mine[0].parts, mine[0].each, strict=True)}
        others = [f"{n} of group {self.graph.groups[i].name}" for i, n in each.items() if i != number]
        if others:
            yield f"Sizes in the program tie them to others: with {each[number]} of them go {joined(others[:4])}."
        elif each[number] > 1:
            yield f"Sizes in the program let {each[number]} of them go at a time."

    def _steps_of(self, group: Group) -> list[CoupledStep]:
        """The coupled steps that take units of a group; empty: sizes tie them such that none can go."""
        number = int(self.graph.units.group_of[group.unit_ids[0]])
        return [step for step in self._coupled_steps if number in (part.group for part in step.parts)]

    def _tied(self, group: Group, units: str = "them") -> str:
        """That no unit of a group can go, and the size in the program that says so, if it is one alone."""
        tie = tie_of(self._candidates[1], group)
        why = f": {shorten_paths(str(tied_by(tie))).rstrip('.')}" if tie else ""
        return f"Sizes in the program tie {units} to others such that none can go{why}."

    # ---------------------------------------------------------------- what is frozen

    def _stays(self, subject: Subject) -> Iterator[str]:
        """What of a subject is frozen: a sentence for each reason, and one on what to do."""
        found: dict[tuple[int, int, str], list[str]] = {}
        for one in self._frozen_of(subject):
            found.setdefault((one.count, one.size, one.reason), []).append(one.axis)
        for (count, size, reason), axes in found.items():
            some = f"All {size} entries" if count == size else f"{count} of the {size} entries"
            advice = remedy(reason)
            yield f"{some} of {listed(axes)} stay: {shorten_paths(reason).rstrip('.')}.{' ' if advice else ''}{advice}"

    def _frozen_of(self, subject: Subject) -> tuple[Frozen, ...]:
        """The frozen axes of a subject; a parameter that no run used is frozen as a whole."""
        axes, names = set[str](subject.axes), set(subject.parameters)
        return tuple(one for one in self._frozen if one.axis in axes or one.axis in names)

    def _groups_of(self, axes: tuple[ParameterAxis, ...]) -> tuple[Group, ...]:
        wanted = set(axes)
        return tuple(group for group in self.graph.groups if not wanted.isdisjoint(group.axes))

    # ---------------------------------------------------------------- facts about the graph

    @cached_property
    def _frozen(self) -> tuple[Frozen, ...]:
        return frozen_axes(self.graph)

    @cached_property
    def _held_heads(self) -> Mapping[int, WhyFrozen]:
        return heads_that_stay(self.graph)

    @cached_property
    def _consumed(self) -> frozenset[ParameterAxis]:
        return consumed_axes(self.graph.labeling)

    @cached_property
    def _operators(self) -> Mapping[str, Any]:
        return {operation_name(node): node.target for node in self.graph.labeling.nodes}

    @cached_property
    def _candidates(self) -> Any:
        """The units that a plan may take when something is asked of every group, and what sizes demand."""
        return candidates(self.graph)

    @cached_property
    def _coupled_steps(self) -> list[CoupledStep]:
        free, constraints = self._candidates
        members = [group.unit_ids[free[group.unit_ids]] for group in self.graph.units.groups]
        return make_coupled_steps(members, constraints.equations, len(free))
