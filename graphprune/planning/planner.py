"""From an analyzed model and options to a plan: choose, check the choice against the program, and choose again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphprune.errors import PlanError
from graphprune.graph.analysis import Analysis
from graphprune.graph.candidates import candidates
from graphprune.planning.allocate import Allocator
from graphprune.planning.explain import reasons
from graphprune.planning.objectives import PredictedLatency
from graphprune.planning.options import PruningOptions
from graphprune.planning.setup import PlanSetup
from graphprune.planning.validate import Selection, Violations, validate
from graphprune.pruning.plan import Choice, Plan
from graphprune.utils.arrays import Ids
from graphprune.utils.modules import tables, within

PLANNING_ATTEMPTS = 12
"""How often a choice is made, each time without what broke in the one before."""


def make_plan(graph: Analysis, options: PruningOptions) -> Plan:
    """See :meth:`graphprune.ChannelGraph.plan`."""
    return plan_once(PlanSetup.of(graph, options))


def plan_once(setup: PlanSetup, latency: PredictedLatency | None = None) -> Plan:
    """A plan that satisfies every size and comparison in the program.

    Args:
        setup: the model and what is asked.
        latency: the latency budget as it is predicted, if there is one.

    Raises:
        PlanError: there is none, or a budget is out of reach.
    """
    attempt = _Attempt(setup, latency, {}, frozenset())
    for _ in range(PLANNING_ATTEMPTS):
        violations = attempt.run()
        if not len(violations.broken):
            return attempt.plan()
        attempt = attempt.without(violations)
    groups = setup.graph.units.group_of[violations.broken]
    raise PlanError(
        "ratio: no choice of channels satisfies the sizes that the code asks for; "
        f"still broken: {setup.groups[int(groups[0])].name}"
    )


@dataclass(eq=False)
class _Attempt:
    """One choice.

    Attributes:
        setup: the model and what is asked.
        latency: the latency budget, if there is one.
        held: units that must stay, and why.
        same_entries: groups of which all rows lose the same entries.
    """

    setup: PlanSetup
    latency: PredictedLatency | None
    held: dict[int, str]
    same_entries: frozenset[int]

    def run(self) -> Violations:
        """Choose, and check the choice."""
        setup, graph = self.setup, self.setup.graph
        head_width = bool(setup.options.head_width)
        self.free, self.constraints = candidates(graph, setup.reached, head_width, self.held)
        self.allocator = Allocator(setup, self.free, self.constraints, self.same_entries, self.latency)
        alive = graph.solution.alive(self.allocator.removed())
        self.selection, violations = validate(graph, graph.size_model(), self.constraints, alive)
        return violations

    def without(self, violations: Violations) -> _Attempt:
        """The next attempt: rows lose the same entries where only their order breaks, else what breaks stays."""
        broken = violations.broken
        behind = frozenset(self.setup.graph.units.group_of[broken].tolist())
        if violations.disorder and not behind <= self.same_entries:
            return _Attempt(self.setup, self.latency, self.held, self.same_entries | behind)
        stuck = dict.fromkeys(broken[self.free[broken]].tolist(), "a size or an order in the code would not fit")
        return _Attempt(self.setup, self.latency, self.held | stuck, self.same_entries)

    def plan(self) -> Plan:
        """The plan of a choice that nothing is wrong with."""
        why = reasons(self.setup, self.constraints, self.allocator.why, self.selection.alive)
        return _recorded(self.setup, self.selection, why)


def _recorded(setup: PlanSetup, selection: Selection, why: list[str]) -> Plan:
    """A choice as a plan."""
    shares = setup.costs.shares(setup.graph.units)
    choices = []
    for number, group in enumerate(setup.groups):
        removed = np.flatnonzero(~selection.alive[group.unit_ids]).tolist()
        macs, params = shares[:, number].tolist()
        choices.append(Choice(group.name, group.units, tuple(removed), group.role, macs, params, why[number]))
    kept = _kept(setup, selection)
    own = tables(setup.graph.model)
    cached = own.plain.keys() - kept.keys()
    shapes = {name: tuple(t.shape) for name, t in own.unique() if name not in cached}
    sizes = {path: size for path, size in selection.sizes.items() if not within(path, setup.skipped)}
    return Plan(kept, shapes, sizes, tuple(choices), setup.options.described(), setup.skipped)


def _kept(setup: PlanSetup, selection: Selection) -> dict[str, dict[int, Ids]]:
    """For every parameter axis that loses entries, those that survive, in their new order."""
    kept: dict[str, dict[int, Ids]] = {}
    for axis in setup.graph.units.axes:
        alive = selection.alive[setup.graph.units.labels_of(axis)]
        name = axis.parameter_axis
        if not alive.all() and not within(name, setup.skipped):
            kept.setdefault(name.parameter, {})[name.dim] = selection.orders.get(axis, np.flatnonzero(alive))
    return kept
