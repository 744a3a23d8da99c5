"""From a channel graph and a request to a plan: limit, score, search or share, audit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from math import ceil, floor, lcm

import numpy as np
from torch import nn

from graphprune.calibration.statistics import Statistics
from graphprune.errors import PlanError
from graphprune.graph.analysis import Analysis
from graphprune.graph.candidates import candidates
from graphprune.graph.constraints import SizeConstraints
from graphprune.graph.coupled_steps import CoupledStep, SubGroup, make_coupled_steps
from graphprune.graph.frozen import frozen_axes
from graphprune.graph.roles import CHANNELS
from graphprune.importance.block_influence import influence
from graphprune.importance.context import Context
from graphprune.importance.criteria import find_criterion, scored
from graphprune.planning.budgets import Budget
from graphprune.planning.latency import ALIGNMENT
from graphprune.planning.limits import Limit, group_limits
from graphprune.planning.objectives import BudgetCosts, PredictedLatency, UnitBudget, budget_costs
from graphprune.planning.options import Request
from graphprune.planning.search import (
    Problem,
    RemovalState,
    cost_aware_priority,
    isomorphic_priority,
    make_path,
    search,
    sensitivity_priority,
    uniform_priority,
)
from graphprune.planning.sensitivity import Sensitivity
from graphprune.planning.validate import Selection, validate
from graphprune.pruning.plan import Choice, Plan
from graphprune.utils.arrays import Ids, Mask, Scores
from graphprune.utils.modules import tables, within

GENTLE = 0.5
"""First and last layers, treated gently, lose this much of what the others lose."""


def share_kept(units: int, ratio: float) -> int:
    """How many of ``units`` are kept when the fraction ``ratio`` is removed; at least one."""
    return max(1, units - floor(ratio * units + 1e-9))


def require_groups(graph: Analysis) -> None:
    """Raise a PlanError if a model has nothing that can be removed."""
    if not graph.groups:
        reasons = "\n  ".join(map(str, frozen_axes(graph)[:5])) or "it has no parameters"
        raise PlanError(f"model: {type(graph.model).__name__} has nothing that can be pruned:\n  {reasons}")


def make_plan(graph: Analysis, request: Request) -> Plan:
    """See :meth:`graphprune.graph.Analysis.plan`."""
    require_groups(graph)
    return Planner(graph, request).plan()


class Planner:
    """Makes plans for one request; scores are made once. ``timing`` may change from plan to plan."""

    def __init__(self, graph: Analysis, request: Request) -> None:
        self.graph = graph
        self.timing: PredictedLatency | None = None
        self.request = request
        self.groups = graph.units.groups
        self.tensors = tables(graph.model)
        self.classes = len(graph.solution.reason)
        self.criterion = find_criterion(request.importance)
        self.skipped = self._skipped_blocks()
        self.costs = graph.costs_without(self.skipped) if self.skipped else graph.costs
        self.limits = group_limits(self.groups, request.overrides, request.roles, request.limits, graph.trace.modules)
        self._keep_multiples()
        self._keep_enough_to_choose_from()
        self.why = [""] * len(self.groups)
        self._scores: dict[int, Scores] = {}
        self._members: list[Ids] = []
        self._aligned: set[int] = set()

    def _skipped_blocks(self) -> tuple[str, ...]:
        """The blocks that are left out: those with the least influence."""
        if not self.request.depth:
            return ()
        blocks = self.graph.blocks
        if not blocks:
            raise PlanError(
                "depth: the model has no residual block that can be left out: a module whose result is its input plus "
                "something, and of which nothing else is used; prune channels instead"
            )
        weight = influence(self.graph.model, blocks, self._context.statistics)
        least = np.argsort(weight, kind="stable")[: floor(self.request.depth * len(blocks) + 1e-9)]
        return tuple(blocks[i].path for i in sorted(least.tolist()))

    def _keep_multiples(self) -> None:
        """Where an operation runs on multiples of a number only, groups lose multiples of it."""
        for ids, number, _ in self.graph.labelling.labels.facts.multiples:
            solution, group_of = self.graph.solution, self.graph.units.group_of
            for group in np.unique(group_of[solution.expand(solution.of[ids.ravel()])[0]]).tolist():
                if group >= 0:
                    limit = self.limits[group]
                    self.limits[group] = replace(limit, multiple=lcm(limit.multiple, number))

    def _keep_enough_to_choose_from(self) -> None:
        """Where an operation chooses ``k`` of a group by value, so many must be there."""
        for ids, number, _ in self.graph.labelling.labels.facts.choices:
            for group in np.unique(self.graph.units.group_of[self.graph.solution.of[ids]]).tolist():
                if group >= 0:
                    self.limits[group] = replace(self.limits[group], least=max(self.limits[group].least, number))

    def plan(self) -> Plan:
        """Choose, check the choice against the code, and choose again without what would break."""
        graph = self.graph
        sizes = graph.size_model()
        head_width, held = bool(self.request.roles.get("head_width")), dict[int, str]()
        for _ in range(12):
            free, constraints = candidates(graph, self._reached(), head_width, held)
            removed = self._removed(free, constraints)
            chosen, verdict = validate(graph, sizes, constraints, graph.solution.alive(removed))
            if not len(verdict.broken):
                return self._finished(chosen, constraints)
            behind = set(graph.units.group_of[verdict.broken].tolist())
            if verdict.disorder and not behind <= self._aligned:
                self._aligned |= behind
            else:
                stuck = verdict.broken[free[verdict.broken]].tolist()
                held |= dict.fromkeys(stuck, "a size or an order in the code would not fit")
        raise PlanError(
            "ratio: no choice of channels satisfies the sizes that the code asks for; "
            f"still broken: {self.groups[int(graph.units.group_of[verdict.broken[0]])].name}"
        )

    def _ratio(self, group: int) -> float | None:
        """The fraction asked of a group; None: left to the search."""
        own = self.limits[group].ratio
        if own is not None:
            return own
        if self.request.searched:
            return None
        ratio = self.request.ratio or 0.0
        return ratio * GENTLE if group in self._ends else ratio

    @cached_property
    def _ends(self) -> frozenset[int]:
        """The groups that first and last layers make, if they are to be treated gently."""
        if not self.request.gentle_ends or not self.groups:
            return frozenset()
        last = self.graph.units.group_of[self.graph.units.occurrences.unit]
        return frozenset((0, int(last[last >= 0][-1])))

    def _reached(self) -> Mask:
        """The groups that the plan means to take something from."""
        found = []
        for number, group in enumerate(self.groups):
            ratio = self._ratio(number)
            wanted = group.units > self.limits[number].least
            found.append(wanted if ratio is None else wanted and share_kept(group.units, ratio) < group.units)
        return np.array(found, bool)

    # ------------------------------------------------------------ how many of each

    def _removed(self, free: Mask, constraints: SizeConstraints) -> Ids:
        """The units that go."""
        self._members = [g.unit_ids[free[g.unit_ids]] for g in self.groups]
        bundles = make_coupled_steps(self._members, constraints.equations, self.classes)
        removed = [np.zeros(0, np.int64)]
        searched = []
        for bundle in bundles:
            ratios = self._ratios(bundle)
            if all(ratio is None for ratio in ratios):
                searched.append(bundle)
            else:
                removed.extend(self._shared(bundle, ratios))
        fixed = np.concatenate(removed)
        return np.concatenate([fixed, self._searched(searched, fixed, free)]) if searched else fixed

    def _ratios(self, bundle: CoupledStep) -> list[float | None]:
        """What is asked of each part; where something is asked of some in particular, the others follow."""
        own = [self.limits[part.group].ratio for part in bundle.parts]
        return own if any(r is not None for r in own) else [self._ratio(part.group) for part in bundle.parts]

    def _stops(self, bundle: CoupledStep) -> Ids:
        """After how many steps a bundle may rest. Not at all (0) always is allowed."""
        steps = np.arange(bundle.steps + 1)
        allowed, in_lanes = np.ones(len(steps), bool), np.ones(len(steps), bool)
        for part, each in zip(bundle.parts, bundle.each, strict=True):
            others = self.groups[part.group].units - len(part.unit_ids)
            whole = len(part.unit_ids) == len(self._members[part.group])
            limit = self.limits[part.group]
            if self.request.in_lanes and self.groups[part.group].role in CHANNELS:
                kept = len(part.unit_ids) - each * steps
                in_lanes &= (kept % ALIGNMENT == 0) | (kept < ALIGNMENT)
            if whole:
                allowed &= limit.allows(len(part.unit_ids) + others - each * steps, self.groups[part.group].units)
            else:
                share = ceil(limit.least * len(part.unit_ids) / self.groups[part.group].units)
                allowed &= Limit(least=share, multiple=limit.multiple).allows(
                    len(part.unit_ids) - each * steps, len(part.unit_ids)
                )
        fast = np.flatnonzero(allowed & in_lanes & (steps > 0))
        allowed[0] = True
        return np.append(0, fast) if len(fast) else np.flatnonzero(allowed)

    def _shared(self, bundle: CoupledStep, ratios: Sequence[float | None]) -> list[Ids]:
        """The units that go so that every part comes nearest to its share."""
        stops = self._stops(bundle)
        off = np.zeros(len(stops))
        for part, each, ratio in zip(bundle.parts, bundle.each, ratios, strict=True):
            if ratio is not None:
                off += np.abs(len(part.unit_ids) - each * stops - self._share(part, ratio)) / len(part.unit_ids)
        steps = int(stops[off.argmin()])
        for part in bundle.parts:
            self._note(part, ratios, len(bundle.parts))
        if not steps:
            return []
        values = self._values(bundle)
        return [_lowest(p, v, n * steps) for p, v, n in zip(bundle.parts, values, bundle.each, strict=True)]

    def _share(self, part: SubGroup, ratio: float) -> float:
        """How many units of a part should be kept."""
        units, members = self.groups[part.group].units, len(self._members[part.group])
        return max(share_kept(units, ratio) - (units - members), 1) * len(part.unit_ids) / members

    def _values(self, bundle: CoupledStep) -> list[Scores]:
        """The scores of the units of each part.

        Where rows that lose different entries could not be put in order, they lose the same ones: the entries of all
        rows in one place are scored together.
        """
        own = [self._own_values(part) for part in bundle.parts]
        keys = [(p.group, len(p.unit_ids)) if p.group in self._aligned else (-1, i) for i, p in enumerate(bundle.parts)]
        return [np.sum([v for v, k in zip(own, keys, strict=True) if k == key], axis=0) for key in keys]

    def _own_values(self, part: SubGroup) -> Scores:
        group = self.groups[part.group]
        if part.group not in self._scores:
            self._scores[part.group] = self._score(part.group)
        order = np.argsort(group.unit_ids)
        return self._scores[part.group][order[np.searchsorted(group.unit_ids, part.unit_ids, sorter=order)]]

    def _score(self, number: int) -> Scores:
        return scored(self.criterion, self.graph.groups[number], self._context)

    @cached_property
    def _context(self) -> Context:
        tensors = {name: t for name, t in self.tensors.unique() if isinstance(t, nn.Parameter)}
        abstract = [n for n, t in tensors.items() if t.is_meta]
        if abstract and self.criterion.weights:
            raise PlanError(
                f"importance: it reads weights, but {abstract[0]} is on the meta device; use importance='random' or "
                "load the weights first"
            )
        asked, units = self.request, self.graph.units
        batches = asked.calibration
        statistics = None if batches is None else Statistics(self.graph.model, units, batches, asked.loss_fn)
        return Context(self.graph.model, tensors, units, asked.seed, statistics, asked.reduce, asked.normalize)

    # ------------------------------------------------------------ under budgets

    def _searched(self, bundles: Sequence[CoupledStep], fixed: Ids, free: Mask) -> Ids:
        """The units that go so that all budgets are met."""
        tracks = []
        for bundle in bundles:
            layers = [self._layers(part.group) for part in bundle.parts]
            tracks.append(make_path(bundle, self._stops(bundle)[1:], self._values(bundle), layers))
            for part in bundle.parts:
                self._note(part, (None,), len(bundle.parts))
        spending = self._spending(free)
        network = RemovalState(tracks)
        limits = np.array([b.limit for b in spending.budgets])
        problem = Problem(self.graph.solution, network, spending.costs, spending.prices, limits, fixed)
        even = uniform_priority(network.tracks) if self.request.allocation in (None, "global") else None
        passed = search(problem, self._keys(network), even and self._gently(network, even))
        if passed is None:
            raise self._out_of_reach(problem, spending.budgets)
        return network.removed(passed)

    def _layers(self, group: int) -> int:
        """How many layers a group runs through: the weights (not biases, not norms) that have its channels."""
        names = {axis.parameter for axis in self.groups[group].axes}
        return max(sum(len(self.graph.trace.shapes[name]) > 1 for name in names), 1)

    def _keys(self, network: RemovalState) -> Callable[[Scores], list[Scores]]:
        """How early each station comes, given prices."""

        def keys(price: Scores) -> list[Scores]:
            if isinstance(self.request.allocation, Sensitivity):
                found = sensitivity_priority(network.tracks, self._rises(network, self.request.allocation), price)
            elif self.request.allocation == "uniform":
                found = uniform_priority(network.tracks)
            elif self.request.allocation == "isomorphic":
                found = isomorphic_priority(network.tracks, [self._structure(t.bundle) for t in network.tracks])
            else:
                found = cost_aware_priority(network.tracks, price)
            return self._gently(network, found)

        return keys

    def _gently(self, network: RemovalState, keys: Sequence[Scores]) -> list[Scores]:
        """Keys with those of first and last layers later, if these are to be treated gently."""
        slow = [GENTLE if any(p.group in self._ends for p in t.bundle.parts) else 1.0 for t in network.tracks]
        return [key / s for key, s in zip(keys, slow, strict=True)]

    def _rises(self, network: RemovalState, measured: Sensitivity) -> list[Scores]:
        """How much the loss has risen by each station: that of the group that suffers most."""
        names = [[self.groups[p.group].name for p in t.bundle.parts] for t in network.tracks]
        return [
            np.max([measured.rise(name, t.gone) for name in mine], axis=0)
            for mine, t in zip(names, network.tracks, strict=True)
        ]

    def _structure(self, bundle: CoupledStep) -> tuple[object, ...]:
        """What groups of equal structure have in common: their role and the layers that they run through."""
        axes = (axis for part in bundle.parts for axis in self.groups[part.group].axes)
        places = sorted((axis.module, axis.tensor, axis.dim) for axis in axes)
        modules = self.graph.trace.modules
        layers = (f"{modules.get(module, nn.Module).__name__}.{tensor}[{dim}]" for module, tensor, dim in places)
        return *(self.groups[part.group].role for part in bundle.parts), *sorted(layers)

    def _spending(self, free: Mask) -> BudgetCosts | UnitBudget:
        """The budgets and what counts them."""
        if self.request.asked:
            return budget_costs(self.graph.costs, self.costs, self.request, self.timing)
        assert self.request.ratio is not None
        kept = share_kept(int(free.sum()), self.request.ratio)
        return UnitBudget(free, kept, f"ratio={self.request.ratio}")

    def _out_of_reach(self, problem: Problem, budgets: Sequence[Budget]) -> PlanError:
        least = problem.costs(problem.alive(problem.network.lengths))
        dense = problem.costs(np.ones(self.classes, bool))
        wrong = [i for i, budget in enumerate(budgets) if least[i] > budget.limit]
        worst = max(wrong, key=lambda i: least[i] / budgets[i].limit, default=0)
        left = budgets[worst].shown(least[worst])
        return PlanError(
            f"{budgets[worst].kind}: {budgets[worst].text} is out of reach; with every group at its floor the model "
            f"still costs {left}, {least[worst] / dense[worst]:.3f} of what it costs now. Ask for that or more, or "
            f"raise max_ratio (now {self.request.limits.max_ratio:g})"
        )

    # ------------------------------------------------------------ the record

    def _note(self, part: SubGroup, ratios: Sequence[float | None], together: int) -> None:
        asked = next((f"ratio {r:g}" for r in ratios if r is not None), None)
        kind = asked or f"{self.request.allocated or 'global'} under {', '.join(self.request.asked) or 'ratio'}"
        tied = f", in step with {together - 1} other groups" if together > 1 else ""
        by = f" ({self.limits[part.group].why})" if self.limits[part.group].why else ""
        self.why[part.group] = kind + by + tied

    def _reasons(self, constraints: SizeConstraints, alive: Mask) -> list[str]:
        """Why each group has as many units as it has."""
        found = []
        for number, group in enumerate(self.groups):
            held = [constraints.frozen[a] for a in group.unit_ids.tolist() if a in constraints.frozen]
            kept = int(alive[group.unit_ids].sum())
            if not self.why[number]:
                found.append(held[0] if held else self._untouched(number))
            elif kept == self.limits[number].least and kept < group.units:
                found.append(f"{self.why[number]}; at its floor")
            else:
                found.append(self.why[number])
        return found

    def _untouched(self, number: int) -> str:
        """Why a group that could lose something was not asked to."""
        narrower = bool(self.request.roles.get("head_width"))
        return {
            "cell": "heads keep their width unless head_width is given",
            "repeat": "heads become narrower instead" if narrower else "whole key/value groups go instead",
            "row": "heads become narrower instead" if narrower else "nothing is asked of it",
        }.get(self.graph.units.kind_of(self.groups[number].unit_ids), "tied to sizes that cannot change")

    def _finished(self, chosen: Selection, constraints: SizeConstraints) -> Plan:
        shares = self.costs.shares(self.graph.units)
        reasons = self._reasons(constraints, chosen.alive)
        choices = []
        for number, group in enumerate(self.groups):
            removed = np.flatnonzero(~chosen.alive[group.unit_ids])
            macs, params = shares[0, number], shares[1, number]
            choices.append(
                Choice(
                    group.name,
                    group.units,
                    tuple(removed.tolist()),
                    group.role,
                    float(macs),
                    float(params),
                    reasons[number],
                )
            )
        kept = self._kept(chosen)
        cached = self.tensors.plain.keys() - kept.keys()
        shapes = {name: tuple(t.shape) for name, t in self.tensors.unique() if name not in cached}
        sizes = {path: size for path, size in chosen.sizes.items() if not within(path, self.skipped)}
        return Plan(kept, shapes, sizes, tuple(choices), self.request.described(), self.skipped)

    def _kept(self, chosen: Selection) -> dict[str, dict[int, Ids]]:
        kept: dict[str, dict[int, Ids]] = {}
        for axis in self.graph.units.axes:
            alive = chosen.alive[self.graph.units.labels_of(axis)]
            name = axis.parameter_axis
            if not alive.all() and not within(name, self.skipped):
                kept.setdefault(name.parameter, {})[name.dim] = chosen.orders.get(axis, np.flatnonzero(alive))
        return kept


def _lowest(part: SubGroup, values: Scores, count: int) -> Ids:
    """The ``count`` least important units of a part."""
    return part.unit_ids[np.argsort(-values, kind="stable")[len(part.unit_ids) - count :]]
