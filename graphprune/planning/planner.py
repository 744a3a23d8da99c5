"""From an analyzed model and options to a plan: choose, check the choice against the program, and choose again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import lcm
from typing import NamedTuple

import numpy as np

from graphprune.calibration.statistics import Statistics
from graphprune.errors import InputError, NoFloat64Error, PlanError
from graphprune.graph.analysis import Analysis
from graphprune.graph.candidates import candidates
from graphprune.graph.constraints import SizeConstraints
from graphprune.graph.equal_layers import EqualLayers, alike_layers
from graphprune.graph.groups import WhyFrozen
from graphprune.planning.allocate import Allocator, Sharing
from graphprune.planning.buffer_copies import kept_of_copies
from graphprune.planning.config_sizes import FollowedSizes, config_sizes
from graphprune.planning.explain import reasons
from graphprune.planning.objectives import PredictedLatency
from graphprune.planning.options import PruningOptions
from graphprune.planning.serving import HEADS
from graphprune.planning.setup import PRUNE_FIRST, PlanSetup, packed_layer, types_changed
from graphprune.planning.translation import ProgramDifference, Translation, responsible
from graphprune.planning.unread_sizes import unread_sizes
from graphprune.planning.validate import Selection, Violations, validate
from graphprune.pruning.later_tensors import known_shapes
from graphprune.pruning.plan import Choice, Plan
from graphprune.tracing.input_specs import input_specs
from graphprune.utils.arrays import Ids, Mask
from graphprune.utils.modules import tables, walked_once, within

ROUNDINGS = 4
"""How often widths are made multiples of the numbers of heads of the attempt before, which may change too."""
PLANNING_ATTEMPTS = 12
"""How often a choice is made, each time without what broke in the one before."""


def make_plan(graph: Analysis, options: PruningOptions, statistics: Statistics | None = None) -> Plan:
    """See :meth:`graphprune.ChannelGraph.plan`; ``statistics`` as for :meth:`PlanSetup.of`."""
    return plan_once(PlanSetup.of(graph, options, statistics))


@dataclass(frozen=True, eq=False)
class Chooser:
    """Who decides which units go.

    Attributes:
        reached: the groups that lose something. [groups]
        narrower: those of :data:`graphprune.graph.roles.NARROWER` that are asked for.
        choose: given the units that may go, what sizes in the program ask of them, groups of which all rows have to
            lose the same entries, and by group what the number of units that stay is a multiple of, returns the units
            that go, and for each group that lost some what decided it.
    """

    reached: Mask
    narrower: Collection[str]
    choose: Callable[[Mask, SizeConstraints, frozenset[int], Mapping[int, int]], tuple[Ids, dict[int, str]]]


def plan_once(setup: PlanSetup, latency: PredictedLatency | None = None, share: Sharing | None = None) -> Plan:
    """A plan that satisfies every size and comparison in the program.

    Args:
        setup: the model and what is asked.
        latency: the latency budget as it is predicted, if there is one.
        share: decides under budgets how far to go on each path; None: the allocation that is asked for.

    Raises:
        PlanError: there is none, or a budget is out of reach.
    """

    def allocate(
        free: Mask, constraints: SizeConstraints, same_entries: frozenset[int], multiples: Mapping[int, int]
    ) -> tuple[Ids, dict[int, str]]:
        allocator = Allocator(setup, free, constraints, same_entries, latency, multiples, share)
        return allocator.removed(), allocator.why

    return planned(setup, Chooser(setup.reached, setup.options.narrower, allocate))[0]


def planned(setup: PlanSetup, chooser: Chooser) -> tuple[Plan, dict[int, str]]:
    """A plan that satisfies every size and comparison in the program, and why units had to stay that nobody held.

    Raises:
        PlanError: there is none.
    """
    attempt = _Attempt(setup, chooser)
    for _ in range(PLANNING_ATTEMPTS):
        violations = attempt.run()
        if len(violations.broken):
            attempt = attempt.without(violations)
            continue
        with walked_once(setup.graph.model):
            plan, difference, followed = _checked(setup, attempt.selection, attempt.plan())
        if difference is None and attempt.expressed(followed):
            return plan, {unit: str(why) for unit, why in attempt.constraints.frozen.items()}
        if difference is None:
            attempt = attempt.in_whole_parts(followed) or attempt.in_proportion(followed)
            continue
        held = attempt.mistranslated(plan, difference)
        attempt = attempt.holding(held)
    units = violations.broken if len(violations.broken) else list(held)
    name = setup.groups[int(setup.graph.units.group_of[units[0]])].name
    raise PlanError(
        f"ratio: no choice of channels satisfies the sizes that the code asks for; still broken: {name}",
        where=f"group {name!r}",
        found=f"{PLANNING_ATTEMPTS} choices, each of which breaks a size or comparison in the model's code",
        needed="sizes that the model's code accepts",
        do=f"freeze it: overrides={{{name!r}: Override(frozen=True)}}, and report the model",
    )


@dataclass(eq=False)
class _Attempt:
    """One choice.

    Attributes:
        setup: the model and what is asked.
        chooser: who decides.
        held: units that must stay, and why.
        same_entries: groups of which all rows lose the same entries.
        joined: sets of fields of a configuration that are changed in proportion.
        multiples: by group, what the number of units that stay is a multiple of, because a class insists on it.
        roundings: how often these were others.
    """

    setup: PlanSetup
    chooser: Chooser
    held: Mapping[int, WhyFrozen] = field(default_factory=dict)
    same_entries: frozenset[int] = frozenset()
    joined: frozenset[frozenset[str]] = frozenset()
    multiples: Mapping[int, int] = field(default_factory=dict)
    roundings: int = 0

    def run(self) -> Violations:
        """Choose, and check the choice."""
        graph, chooser = self.setup.graph, self.chooser
        self.free, self.constraints = candidates(graph, chooser.reached, chooser.narrower, self.held)
        if self.setup.options.layers == "equal":
            alike = EqualLayers.of(graph, self.free, self.constraints, self.joined)
            self.constraints.equations += alike.equations
            self.directions = alike.directions
        if self.setup.options.serve is not None:
            self.constraints.equations += alike_layers(graph, self.free, HEADS)
        removed, self.why = chooser.choose(self.free, self.constraints, self.same_entries, self._multiples())
        alive = graph.solution.alive(removed)
        self.selection, violations = validate(graph, self.constraints, alive)
        return violations

    def _multiples(self) -> dict[int, int]:
        """What numbers of units are multiples of: for a class, and for attributes to be whole numbers."""
        found, units = dict(self.multiples), self.setup.graph.units
        for ids, number in self.constraints.multiples:
            (group, *others) = np.unique(units.group_of[ids]).tolist()
            if not others and group >= 0 and len(ids) == units.groups[group].units:
                found[group] = lcm(found.get(group, 1), number)
        return found

    def without(self, violations: Violations) -> _Attempt:
        """The next attempt: rows lose the same entries where only their order breaks, else what breaks stays."""
        broken = violations.broken
        behind = frozenset(self.setup.graph.units.group_of[broken].tolist())
        if violations.disorder and not behind <= self.same_entries:
            return replace(self, same_entries=self.same_entries | behind)
        stuck = violations.reasons(broken[self.free[broken]].tolist())
        return self.holding(stuck or self._behind(violations))

    def _behind(self, violations: Violations) -> dict[int, str]:
        """Why the units of those groups must stay without which what stays anyway would have another size."""
        alive, groups = self.selection.alive, self.setup.groups
        losing = [n for n, group in enumerate(groups) if not alive[group.unit_ids].all()]
        found = responsible(losing, lambda some: len(self._validated(some)[1].broken) > 0)
        return {unit: violations.causes[0][1] for n in found for unit in groups[n].unit_ids.tolist()}

    def holding(self, held: Mapping[int, str]) -> _Attempt:
        """The next attempt, in which these units stay too, and why."""
        return replace(self, held={**self.held, **{unit: WhyFrozen(why) for unit, why in held.items()}})

    def expressed(self, followed: FollowedSizes) -> bool:
        """Can the configuration say what the choice is, as far as that is asked for?"""
        asked = self.setup.options.layers == "equal" and self.setup.graph.config_fields is not None
        return not asked or followed.expressed

    def in_whole_parts(self, followed: FollowedSizes) -> _Attempt | None:
        """The next attempt, in which widths are multiples of the numbers of heads of this one, as they were before.

        None: they are, or that has been tried often enough.
        """
        found = dict(self.multiples)
        fields = self.setup.graph.config_fields
        for direction, divisor in fields.undivided(followed.scales) if fields is not None else ():
            for number, group in enumerate(self.setup.groups):
                if any((axis.parameter, axis.dim) in direction.moves for axis in group.axes):
                    found[number] = divisor
        if self.roundings == ROUNDINGS or found == self.multiples:
            return None
        turned = any(found[number] % known for number, known in self.multiples.items())
        settled = self.holding(self._whole_heads()) if turned else self
        return replace(settled, multiples=found, roundings=self.roundings + 1)

    def _whole_heads(self) -> dict[int, str]:
        """The heads of which this choice takes none, and why they stay from now on."""
        groups = (group for group in self.setup.groups if group.role in HEADS)
        whole = (group for group in groups if self.selection.alive[group.unit_ids].all())
        why = "widths are to be multiples of their number, and no other number of them was found with which they are"
        return dict.fromkeys((unit for group in whole for unit in group.unit_ids.tolist()), why)

    def in_proportion(self, followed: FollowedSizes) -> _Attempt:
        """The next attempt, in which fields that the class refuses otherwise are changed in proportion.

        Raises:
            PlanError: there are no such fields.
        """
        fields = self.setup.graph.config_fields
        found = fields.in_proportion(followed.scales, self.directions) if fields is not None else frozenset()
        if found <= self.joined:
            raise PlanError(
                f"layers: no values of its configuration make {type(self.setup.graph.model).__name__} build the slim "
                "model",
                where=f"the configuration of {type(self.setup.graph.model).__name__}",
                found="sizes that no values of its fields give",
                needed="sizes that the class builds from its configuration",
                do="ask for other ratios, or leave layers='equal' out",
            )
        return replace(self, joined=self.joined | found)

    def mistranslated(self, plan: Plan, difference: ProgramDifference) -> dict[int, str]:
        """The units without which the slim model runs another program, and what is different.

        Raises:
            PlanError: the program is another one even if nothing is removed.
            InputError: what picks from results fails on those in float64.
            NoFloat64Error: the model cannot be compared in float64.
        """
        groups = [n for n, choice in enumerate(plan.choices) if choice.removed]
        unchanged = self._difference_of(())
        if unchanged is not None and isinstance(unchanged.cause, InputError):  # of outputs=, which cannot be compared
            raise unchanged.cause
        if (
            unchanged is not None
            and isinstance(unchanged.cause, NoFloat64Error)
            and not packed_layer(self.setup.graph.model)
        ):
            raise unchanged.cause
        if unchanged is not None:
            raise _unchecked(self.setup, unchanged) from unchanged.cause
        reason = f"the program would be another one: {difference}{self._unreached()}"
        found = responsible(groups, self._difference_of)
        return {unit: reason for n in found for unit in self.setup.groups[n].unit_ids.tolist()}

    def _unreached(self) -> str:
        """What no example runs, which may be what a slim model runs in its place."""
        names = [name for name in self.setup.graph.trace.unreached if name in self.setup.graph.trace.shapes]
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        return f"; no example runs {', '.join(names[:2])}{more}: give examples that do" if names else ""

    def _difference_of(self, groups: Sequence[int]) -> ProgramDifference | None:
        """What differs if only these groups lose what they do in this choice."""
        selection, violations = self._validated(groups)
        if len(violations.broken):
            return None
        plan = record_choice(self.setup, selection, [""] * len(self.setup.groups))
        return self.setup.check.difference(plan, selection.alive)

    def _validated(self, groups: Sequence[int]) -> tuple[Selection, Violations]:
        """What only these groups lose in this choice, and what that breaks."""
        graph = self.setup.graph
        gone = [g.unit_ids[~self.selection.alive[g.unit_ids]] for g in (self.setup.groups[n] for n in groups)]
        return validate(graph, self.constraints, graph.solution.alive(np.concatenate([np.zeros(0, np.int64), *gone])))

    def plan(self) -> Plan:
        """The plan of a choice that nothing is wrong with."""
        why = reasons(self.setup, self.constraints, self.why, self.selection.alive)
        return record_choice(self.setup, self.selection, why)


def _unchecked(setup: PlanSetup, difference: ProgramDifference) -> PlanError | InputError:
    """The error of a program that is another one already where no channel is removed.

    What picks from results, or an operation, that fails in float64 raises the right one.
    """
    cause, packed = difference.cause, packed_layer(setup.graph.model)
    if isinstance(cause, InputError) or (isinstance(cause, NoFloat64Error) and not packed):
        return cause
    error = _unchecked_program(setup, difference, packed)
    error.__cause__ = cause
    return error


def _unchecked_program(setup: PlanSetup, difference: ProgramDifference, packed: str | None) -> PlanError:
    if setup.skipped:
        return PlanError(
            f"depth: the program would be another one without {', '.join(setup.skipped)}: {difference}",
            where=", ".join(setup.skipped),
            found=str(difference),
            needed="blocks without which the rest runs as before",
            do="ask for a smaller depth=, or leave it out",
        )
    if packed:
        return PlanError(
            f"model: layers of {type(setup.graph.model).__name__} are quantized, with which no plan can be checked",
            where=packed,
            found=f"{packed}; {difference}",
            needed="layers with parameters",
            do=PRUNE_FIRST,
        )
    return _changed_since(setup, difference) or PlanError(
        f"model: no plan can be checked, since it does not do the same again where nothing is removed: {difference}",
        where=type(setup.graph.model).__name__,
        found=str(difference),
        needed="a forward that does the same for the same inputs, in copies of the model too",
        do="keep what forward changes (counters, caches, random choices) from changing which operations run",
    )


def _changed_since(setup: PlanSetup, difference: ProgramDifference) -> PlanError | None:
    """The error of a model that is another one than when it was traced; None: it is not."""
    for name, now, traced in types_changed(setup.graph):
        return PlanError(
            f"model: {name} is {now} and was {traced} when it was traced, with example inputs of that type",
            where=name,
            found=f"{now}; with the example inputs of the trace {difference}",
            needed=f"{traced}, as the graph was made of it",
            do="trace the model again with inputs of its type: graphprune.trace(model, example_inputs)",
        )
    if Translation(setup.graph, ()).model_changed():
        return PlanError(
            f"model: it has run, or was changed, since it was traced, and does something else now: {difference}",
            where=type(setup.graph.model).__name__,
            found=str(difference),
            needed="the model as it was when it was traced; it keeps what changes which operations run (a counter, a "
            "table that is made once)",
            do="trace the model again: graphprune.trace(model, example_inputs)",
        )
    return None


class _CheckedPlan(NamedTuple):
    """A plan with the sizes that follow, how its program differs, and what became of the configuration."""

    plan: Plan
    difference: ProgramDifference | None
    followed: FollowedSizes


def _checked(setup: PlanSetup, selection: Selection, plan: Plan) -> _CheckedPlan:
    """The plan with the sizes that follow although forward does not read them, and how its program differs.

    If only these sizes make it differ, forward reads one of them after all, and they stay.
    """
    followed = config_sizes(setup.graph, plan, *unread_sizes(setup.graph, plan, selection.alive))
    candidate = replace(plan, unread=followed.unread, stale=followed.stale)
    difference = setup.check.difference(candidate, selection.alive)
    if difference is not None and followed.unread:
        followed = FollowedSizes({}, (*followed.unread, *followed.stale))
        candidate = replace(plan, stale=followed.stale)
        difference = setup.check.difference(candidate, selection.alive)
    return _CheckedPlan(candidate, difference, followed)


def record_choice(setup: PlanSetup, selection: Selection, why: list[str]) -> Plan:
    """A choice as a plan."""
    shares = setup.costs.shares(setup.graph.units)
    choices = []
    numbers = range(max((group.units for group in setup.groups), default=0))
    shared = np.array(numbers, object)  # one object for each number, however many groups lose it
    for number, group in enumerate(setup.groups):
        removed = shared[: group.units][~selection.alive[group.unit_ids]]
        macs, params = shares[:, number].tolist()
        choices.append(Choice(group.name, group.units, tuple(removed), group.role, macs, params, why[number]))
    kept = _kept(setup, selection)
    kept |= kept_of_copies(setup.graph, kept)
    own = tables(setup.graph.model)
    shapes = known_shapes(own, kept, setup.graph.trace.modules)
    sizes = {path: size for path, size in selection.sizes.items() if not within(path, setup.skipped)}
    before, after = setup.graph.costs.dense, setup.costs.at(selection.alive)
    costs = {kind: (before[kind], after[kind]) for kind in before.counts if kind in after.counts}
    asked, inputs = setup.options.described(), input_specs(setup.graph.examples)
    return Plan(
        kept,
        shapes,
        sizes,
        tuple(choices),
        asked,
        setup.skipped,
        costs=costs,
        inputs=inputs,
        zeroed=setup.zeroed,
        results=setup.graph.results_of(setup.skipped, setup.zeroed),
        tied=setup.tied,
    )


def _kept(setup: PlanSetup, selection: Selection) -> dict[str, dict[int, Ids]]:
    """For every parameter axis that loses entries, those that survive, in their new order."""
    kept: dict[str, dict[int, Ids]] = {}
    known: dict[int, Ids] = {}
    lines = setup.graph.costs.lines
    for axis in setup.graph.units.axes:
        name = axis.parameter_axis
        line = lines[name]  # the same for all axes that lose the same entries
        if line not in known:
            known[line] = selection.alive[setup.graph.units.labels_of(axis)].nonzero()[0]
        survivors = known[line]
        if len(survivors) < axis.size and not (setup.skipped and within(name, setup.skipped)):
            kept.setdefault(name.parameter, {})[name.dim] = selection.orders.get(axis, survivors)
    return kept
