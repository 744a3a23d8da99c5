"""How many units of each group go, and which: by ratios, or by a search under budgets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import ceil, lcm

import numpy as np

from graphprune.graph.constraints import SizeConstraints
from graphprune.graph.coupled_steps import CoupledStep, SubGroup, make_coupled_steps
from graphprune.graph.roles import CHANNELS
from graphprune.planning.allocations import Allocation, AllocationInputs, Priority, find_allocation, uniform
from graphprune.planning.explain import decided_by, left_in_multiples, out_of_reach, why_held
from graphprune.planning.latency import ALIGNMENT
from graphprune.planning.limits import Limit, share_kept
from graphprune.planning.objectives import BudgetCosts, PredictedLatency, UnitBudget, budget_costs
from graphprune.planning.removal_paths import RemovalState, make_path
from graphprune.planning.search import Problem, search
from graphprune.planning.setup import PROTECTED, PlanSetup
from graphprune.utils.arrays import Ids, Mask, Scores


@dataclass(eq=False)
class Allocator:
    """One attempt at sharing out what is removed.

    Attributes:
        setup: the model and what is asked.
        free: the units that may go. [classes]
        constraints: what sizes in the program ask of them.
        same_entries: groups of which all rows lose the same entries, because no order of the survivors could be found
            otherwise.
        latency: the latency budget, if there is one.
        multiples: by group, what the number of units that stay is a multiple of, besides what is asked.
        share: decides under budgets how far to go on each path; None: the allocation that is asked for.
        why: for each group that something was asked of, what decided how many stay.
    """

    setup: PlanSetup
    free: Mask
    constraints: SizeConstraints
    same_entries: frozenset[int]
    latency: PredictedLatency | None
    multiples: Mapping[int, int] = field(default_factory=dict)
    share: Sharing | None = None
    why: dict[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._smaller: set[int] = set()
        self._members = [_chosen(g.unit_ids, self.free[g.unit_ids]) for g in self.setup.groups]

    @cached_property
    def _numbers(self) -> Ids:
        """Numbers from 0 on, which the steps of most groups are a part of."""
        return np.arange(max(map(len, self._members), default=0) + 1)

    @cached_property
    def _has_multiples(self) -> bool:
        """Is what is left of any group to be a multiple?"""
        return bool(self.multiples) or any(limit.multiple > 1 for limit in self.setup.limits)

    def removed(self) -> Ids:
        """The units that go.

        Raises:
            PlanError: a budget is out of reach.
        """
        removed = [np.zeros(0, np.int64)]
        searched = []
        for coupled in self.coupled_steps():
            asked = self._asked(coupled)
            for group in asked:
                self.why[group] = decided_by(self.setup, group, asked)
            if all(ratio is None for ratio in asked.values()):
                searched.append(coupled)
            else:
                removed.extend(self._by_ratio(coupled, asked))
        fixed = np.concatenate(removed)
        if not searched and not self.setup.options.budget_specs:
            return fixed
        return np.concatenate([fixed, self._by_search(searched, fixed)])

    def coupled_steps(self) -> list[CoupledStep]:
        """What can go, and what goes with it."""
        return make_coupled_steps(self._members, self.constraints.equations, len(self.free))

    def _asked(self, coupled: CoupledStep) -> dict[int, float | None]:
        """What is asked of each group; where something is asked of some in particular, the others follow."""
        own = {part.group: self.setup.limits[part.group].ratio for part in coupled.parts}
        return own if any(r is not None for r in own.values()) else {group: self.setup.ratio(group) for group in own}

    def _stops(self, coupled: CoupledStep) -> Ids:
        """After how many repetitions a coupled step may end. Not at all (0) always is allowed."""
        steps = self._numbers[: coupled.steps + 1]
        allowed, aligned = np.ones(len(steps), bool), np.ones(len(steps), bool)
        for part, each in zip(coupled.parts, coupled.each, strict=True):
            kept = len(part.unit_ids) - each * steps
            if self.setup.aligned and self._is_aligned(part.group):
                limit, others, _ = self._limit_of(part)
                width = kept + others + limit.beside
                aligned &= (width % ALIGNMENT == 0) | (width < ALIGNMENT)
            allowed &= self._allowed(part, kept)
        fast = np.flatnonzero(allowed & aligned & (steps > 0))
        if len(fast) and fast[-1] == len(fast):  # all numbers up to the last one, which need no memory of their own
            return steps[: len(fast) + 1]
        allowed[0] = True
        return np.append(0, fast) if len(fast) else np.flatnonzero(allowed)

    def _is_aligned(self, group: int) -> bool:
        """Does a group keep numbers of units that kernels are written for, if nothing else is asked of it?"""
        return not self.setup.limits[group].own_multiple and self.setup.groups[group].role in CHANNELS

    def _allowed(self, part: SubGroup, kept: Ids) -> Mask:
        """Which numbers of kept units the limits of a part's group allow."""
        limit, others, units = self._limit_of(part)
        found: Mask = limit.allows(kept + others, units)
        return found

    def _limit_of(self, part: SubGroup) -> tuple[Limit, int, int]:
        """What is asked of a part with the units that it is counted with, how many these are, and of all together."""
        limit, units, own = self.setup.limits[part.group], self.setup.groups[part.group].units, len(part.unit_ids)
        multiple, beside = lcm(limit.multiple, self.multiples.get(part.group, 1)), self._beside(part)
        if own == len(self._members[part.group]):
            return replace(limit, multiple=multiple, beside=beside), units - own, units
        return Limit(least=ceil(limit.least * own / units), multiple=multiple, beside=beside), 0, own

    def _beside(self, part: SubGroup) -> int:
        """How many units' worth of a part's layer stays anyway, if multiples are counted with it."""
        if not (self._has_multiples or self.setup.aligned) or part.group not in self.setup.beside:
            return 0
        beside = self.setup.beside[part.group]
        if (self.setup.groups[part.group].units + len(beside)) % self.multiples.get(part.group, 1):
            return 0  # what the code divides is the group alone
        whole = len(part.unit_ids) == len(self._members[part.group])
        return len(beside) if whole else int(np.isin(beside, part.unit_ids).sum())

    def _scores(self, coupled: CoupledStep) -> list[Scores]:
        """The scores of the units of each part; of groups that lose the same entries in all rows, the sum over rows."""
        own = [self.setup.scores.of_part(part) for part in coupled.parts]
        keys = [
            (part.group, len(part.unit_ids)) if part.group in self.same_entries else (-1, i)
            for i, part in enumerate(coupled.parts)
        ]
        if len(set(keys)) == len(keys):
            return own
        return [np.sum([v for v, k in zip(own, keys, strict=True) if k == key], axis=0) for key in keys]

    # ------------------------------------------------------------ by ratios

    def _by_ratio(self, coupled: CoupledStep, asked: Mapping[int, float | None]) -> list[Ids]:
        """The units that go so that every part comes nearest to its share, by the least ratio that is asked of one.

        So no group loses more than was asked of it, and a ratio of 0 holds all that goes in step.
        """
        least = min(ratio for ratio in asked.values() if ratio is not None)
        ratios = [None if asked[part.group] is None else least for part in coupled.parts]
        steps = self.repetitions(coupled, ratios)
        if not steps:
            self._tell_held(coupled, asked.keys() - self._smaller if least else ())
            return []
        if self._has_multiples:
            self._tell_rounded(coupled, ratios, steps)
        self._smaller |= asked.keys()
        scores = zip(coupled.parts, self._scores(coupled), coupled.each, strict=True)
        return [_lowest(part, values, each * steps) for part, values, each in scores]

    def _tell_held(self, coupled: CoupledStep, groups: Collection[int]) -> None:
        """Say why nothing goes of these groups of a step, beside their ratio."""
        parts = zip(coupled.parts, coupled.each, strict=True)
        holding = next((part.group for part, each in parts if self._holds(part, each, coupled.steps)), None)
        for group in groups:
            held = why_held(self.setup, group, holding, self.multiples.get(group, 1))
            self.why[group] += f"; {held}" if held else ""

    def _tell_rounded(self, coupled: CoupledStep, ratios: Sequence[float | None], steps: int) -> None:
        """Say of which groups other numbers of units would stay if they need not be multiples."""
        nearest = self._nearest(coupled, ratios, self._numbers[: coupled.steps + 1])
        for part, each in zip(coupled.parts, coupled.each, strict=True):
            limit, others, _ = self._limit_of(part)
            kept = max(len(part.unit_ids) - each * nearest + others, limit.least)
            told = f"; {left_in_multiples(limit.multiple, limit.beside)}"
            if nearest != steps and (kept + limit.beside) % limit.multiple and told not in self.why[part.group]:
                self.why[part.group] += told

    def _holds(self, part: SubGroup, each: int, steps: int) -> bool:
        """Do the limits of a part's group allow no repetition of a step at all? That one unit stays is no limit."""
        limit = self.setup.limits[part.group]
        kept = len(part.unit_ids) - each * self._numbers[1 : steps + 1]
        return (limit.least > 1 or limit.multiple > 1) and not self._allowed(part, kept).any()

    def repetitions(self, coupled: CoupledStep, ratios: Sequence[float | None]) -> int:
        """How often a coupled step is taken so that every part comes nearest to its share.

        Args:
            coupled: the step.
            ratios: what is asked of each part; None: nothing.
        """
        return self._nearest(coupled, ratios, self._stops(coupled))

    def _nearest(self, coupled: CoupledStep, ratios: Sequence[float | None], stops: Ids) -> int:
        """See :meth:`repetitions`; ``stops``: the numbers to choose from."""
        off = np.zeros(len(stops))
        for part, each, ratio in zip(coupled.parts, coupled.each, ratios, strict=True):
            if ratio is not None:
                kept = len(part.unit_ids) - each * stops
                off += np.abs(kept - self._share(part, ratio)) / len(part.unit_ids)
        return int(stops[off.argmin()])

    def _share(self, part: SubGroup, ratio: float) -> float:
        """How many units of a part should be kept."""
        units, members = self.setup.groups[part.group].units, len(self._members[part.group])
        return max(share_kept(units, ratio) - (units - members), 1) * len(part.unit_ids) / members

    # ------------------------------------------------------------ under budgets

    def _by_search(self, steps: Sequence[CoupledStep], fixed: Ids) -> Ids:
        """The units that go so that all budgets are met."""
        state = RemovalState(
            [
                make_path(
                    coupled,
                    self._stops(coupled)[1:],
                    self._scores(coupled),
                    [self.setup.layers(part.group) for part in coupled.parts],
                    self.setup.scores.additive,
                )
                for coupled in steps
            ],
            self.setup.graph.solution.items,
        )
        budgets = self._budgets(steps)
        limits = np.array([b.limit for b in budgets.budgets])
        problem = Problem(self.setup.graph.solution, state, budgets.costs, budgets.prices, limits, fixed)
        passed = self._passed(problem)
        if passed is None:
            raise out_of_reach(problem, budgets.budgets, self.setup)
        return state.removed(passed)

    def _passed(self, problem: Problem) -> Ids | None:
        """How far to go on each path; None: out of reach. Of no path the budgets are met, or they are not.

        Where there is no budget but a latency that the model meets, nowhere.
        """
        if not len(problem.budgets):
            return np.zeros_like(problem.state.lengths)
        if not problem.state.paths:
            return problem.state.lengths if problem.fits(problem.state.lengths) else None
        return self.share(self, problem) if self.share else self.by_priority(problem)

    def by_priority(self, problem: Problem, given: Allocation | None = None) -> Ids | None:
        """How far an allocation goes on each path, by default the one that is asked for; None: out of reach."""
        chosen = given or find_allocation(self.setup.options.allocation)
        state = problem.state
        even = (lambda: self._priority(state, uniform, ())) if chosen.name == "global" else None
        return search(problem, lambda prices: self._priority(state, chosen.priority, prices), even)

    def _priority(self, state: RemovalState, priority: Priority, prices: Sequence[Scores]) -> Iterator[Scores]:
        """How early each stop comes; later for first and last layers, if these are protected."""
        groups = [[self.setup.groups[part.group] for part in path.coupled.parts] for path in state.paths]
        found = priority(AllocationInputs(state.paths, groups, prices, self.setup.graph.trace.modules))
        protected = [any(p.group in self.setup.protected for p in path.coupled.parts) for path in state.paths]
        return (value / PROTECTED if late else value for value, late in zip(found, protected, strict=True))

    def _budgets(self, steps: Sequence[CoupledStep]) -> BudgetCosts:
        """The budgets, or for a ratio over all groups together the number of units of those that steps can remove."""
        options = self.setup.options
        if options.budget_specs:
            return budget_costs(self.setup.graph.costs, self.setup.costs, options.budget_specs, self.latency)
        assert options.ratio is not None
        movable = np.zeros(len(self.free), bool)
        for step in steps:
            movable[np.concatenate([part.unit_ids for part in step.parts])] = True
        return UnitBudget(movable, share_kept(int(movable.sum()), options.ratio), f"ratio={options.ratio}")


Sharing = Callable[[Allocator, Problem], Ids | None]
"""How far to go on each path so that all budgets are met; None: they are out of reach."""


def _chosen(units: Ids, free: Mask) -> Ids:
    """The units that are free, without a copy where all are."""
    return units if free.all() else units[free]


def _lowest(part: SubGroup, values: Scores, count: int) -> Ids:
    """The ``count`` least important units of a part; of equally important ones the last."""
    if not count:
        return part.unit_ids[:0]
    least = np.partition(values, count - 1)[count - 1]
    lower, equal = np.flatnonzero(values < least), np.flatnonzero(values == least)
    found: Ids = part.unit_ids[np.concatenate([lower, equal[len(equal) - count + len(lower) :]])]
    return found
