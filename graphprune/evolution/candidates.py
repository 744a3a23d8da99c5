"""Candidates: how much goes of each group within the budgets, and how width is exchanged between groups."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from graphprune.errors import PlanError
from graphprune.planning.allocate import Allocator
from graphprune.planning.allocations import ALLOCATIONS, SEARCHED, Allocation, AllocationInputs
from graphprune.planning.planner import plan_once, record_choice
from graphprune.planning.removal_order import RemovalOrder
from graphprune.planning.search import Problem, first_that_fits
from graphprune.planning.setup import PlanSetup
from graphprune.planning.validate import validate
from graphprune.pruning.plan import Plan
from graphprune.utils.arrays import Ids, Mask, Scores
from graphprune.utils.modules import within

STARTS = ("global", "uniform", "isomorphic")
"""The allocations that a search begins with."""
EXCHANGED = 3
"""Of so many groups, at most, something is taken at a time, and to as many it is given."""
LEAST_SHARE = 0.05
"""Of a group that keeps everything this fraction counts as gone where widths change in proportion."""
RETURNS = 8
"""Of so many groups, at most, it is tried whether something can be given back within the budgets."""


@dataclass(frozen=True, eq=False)
class Allotment:
    """How much goes.

    Attributes:
        passed: how many stops of each removal path are passed. [paths]
        gone: the numbers of the branches and blocks that are left out whole.
    """

    passed: Ids
    gone: frozenset[int] = frozenset()

    @property
    def key(self) -> bytes:
        """Equal for equal candidates."""
        return self.passed.tobytes() + np.array(sorted(self.gone), np.int64).tobytes()


@dataclass(frozen=True, eq=False)
class Space:
    """All candidates of one request that leave out the same modules.

    Attributes:
        setup: the model and what is asked.
        allocator: knows what sizes in the program ask.
        problem: the removal paths and the budgets.
    """

    setup: PlanSetup
    allocator: Allocator
    problem: Problem

    def without(self, setup: PlanSetup) -> Space:
        """The candidates that leave out other modules, as a setup says."""
        met: list[Problem] = []

        def noted(allocator: Allocator, problem: Problem) -> Ids:
            met.append(problem)
            return np.zeros_like(problem.state.lengths)

        allocator = replace(self.allocator, setup=setup, share=noted, why={})
        allocator.removed()
        return Space(setup, allocator, met[0])

    @cached_property
    def _idle(self) -> Mask:
        """Paths of which everything is left out anyway. [paths]"""
        groups, left_out = self.setup.groups, self.setup.skipped
        return np.array(
            [
                all(within(axis.parameter, left_out) for part in path.coupled.parts for axis in groups[part.group].axes)
                for path in self.problem.state.paths
            ],
            bool,
        )

    def by_allocation(self, allocation: Allocation) -> Ids | None:
        """How far an allocation goes on each path; None: the budgets are out of reach."""
        passed = self.allocator.by_priority(self.problem, allocation)
        return None if passed is None else np.where(self._idle, 0, passed)

    def choice(self, candidate: Allotment) -> Plan | None:
        """What a candidate removes, without the checks and reasons of a plan; None: sizes in the program forbid it."""
        graph, problem = self.setup.graph, self.problem
        removed = np.concatenate([problem.fixed, problem.state.removed(candidate.passed)])
        alive = graph.solution.alive(removed)
        selection, violations = validate(graph, self.allocator.constraints, alive)
        if len(violations.broken):
            return None
        return record_choice(self.setup, selection, [""] * len(self.setup.groups))

    def lost(self, candidate: Allotment) -> float:
        """What the scores say that is lost by the widths of a candidate."""
        counts = candidate.passed.tolist()
        return sum(float(path.lost[:count].sum()) for path, count in zip(self.problem.state.paths, counts, strict=True))

    def plan(self, candidate: Allotment) -> Plan | None:
        """The candidate as a plan that was checked like any other; None: there is none."""

        def share(allocator: Allocator, problem: Problem) -> Ids | None:
            if np.array_equal(problem.state.lengths, self.problem.state.lengths):
                return candidate.passed
            wanted = partial(_by_shares, self._shares(candidate))
            return allocator.by_priority(problem, Allocation(SEARCHED, wanted, "as a candidate has them"))

        try:
            return plan_once(self.setup, share=share)
        except PlanError:
            return None

    def _shares(self, candidate: Allotment) -> dict[str, float]:
        """By the name of a group, the fraction that goes."""
        found = {}
        for path, count in zip(self.problem.state.paths, candidate.passed.tolist(), strict=True):
            for part in path.coupled.parts:
                found[self.setup.groups[part.group].name] = float(path.gone[count - 1]) if count else 0.0
        return found

    # ------------------------------------------------------------ exchange

    def exchanged(self, parent: Allotment, step: float, rng: np.random.Generator) -> Allotment:
        """A candidate in which some groups have got width back from others, within the budgets.

        Args:
            parent: what is changed.
            step: how much some groups get back at most, as a fraction of what could go of them.
            rng: chooses groups and amounts.
        """
        state = self.problem.state
        passed = parent.passed.copy()
        shrunk = np.flatnonzero(passed)
        if not len(shrunk):
            return parent
        wider = rng.choice(shrunk, min(len(shrunk), int(rng.integers(1, EXCHANGED + 1))), replace=False)
        for path in wider.tolist():
            most = max(1, round(step * int(state.lengths[path])))
            passed[path] -= min(int(rng.integers(1, most + 1)), int(passed[path]))
        rates = self._rates(wider, rng)
        found = self._narrowed(passed, rates)
        return parent if found is None else replace(parent, passed=self._widened(found, rng))

    def in_proportion(self, parent: Allotment, gone: frozenset[int], rng: np.random.Generator) -> Allotment | None:
        """A candidate whose widths are in proportion to those of one that leaves out other units.

        Args:
            parent: whose widths they are.
            gone: the units that this space leaves out.
            rng: chooses what gets the rest of the budgets.
        """
        lengths = self.problem.state.lengths
        shares = np.maximum(parent.passed, LEAST_SHARE * lengths)
        times = [np.arange(1, n + 1) / s for n, s in zip(lengths.tolist(), shares.tolist(), strict=True)]
        order = RemovalOrder.of(times, lengths)
        count = first_that_fits(self.problem, order, 0)
        if count is None:
            return None
        return Allotment(self._widened(np.where(self._idle, 0, order.after(count)), rng), gone)

    def _rates(self, wider: Ids, rng: np.random.Generator) -> Scores:
        """How readily each path gives width: a few do, and the others only where these have no more. [paths]"""
        lengths = self.problem.state.lengths
        rates = np.full(len(lengths), 1e-3)
        others = np.setdiff1d(np.flatnonzero(lengths), wider)
        if len(others):
            count = len(others) if rng.random() < 0.2 else min(len(others), int(rng.integers(1, EXCHANGED + 1)))
            rates[rng.choice(others, count, replace=False)] = rng.uniform(0.2, 1.0, count)
        rates[wider] = 1e-6
        rates[self._idle] = 1e-9
        return rates

    def _narrowed(self, passed: Ids, rates: Scores) -> Ids | None:
        """Pass more stops, at these rates, until the budgets are met; None: they are out of reach."""
        times = []
        for length, base, rate in zip(
            self.problem.state.lengths.tolist(), passed.tolist(), rates.tolist(), strict=True
        ):
            later = np.arange(1, length - base + 1) / max(length, 1) / rate
            times.append(np.concatenate([np.full(base, -np.inf), later]))
        order = RemovalOrder.of(times, self.problem.state.lengths)
        count = first_that_fits(self.problem, order, int(passed.sum()))
        return None if count is None else order.after(count)

    def _widened(self, passed: Ids, rng: np.random.Generator) -> Ids:
        """Give back what the budgets leave, of a few groups in turn."""
        for path in rng.permutation(np.flatnonzero(passed))[:RETURNS].tolist():
            passed = self._returned(passed, path)
        return passed

    def _returned(self, passed: Ids, path: int) -> Ids:
        """The fewest stops of one path with which the budgets are met, the others as they are."""
        low, high = -1, int(passed[path])
        middle = high - 1  # mostly there is nothing to give
        while high - low > 1:
            if self._fits(passed, path, middle):
                high = middle
            else:
                low = middle
            middle = (low + high) // 2
        return _with(passed, path, high)

    def _fits(self, passed: Ids, path: int, count: int) -> bool:
        return self.problem.fits(_with(passed, path, count))


def _with(passed: Ids, path: int, count: int) -> Ids:
    found: Ids = passed.copy()
    found[path] = count
    return found


def _by_shares(shares: dict[str, float], inputs: AllocationInputs) -> list[Scores]:
    """The fraction that is gone at each stop, compared with what is wanted of the path's groups."""
    found = []
    for path, groups in zip(inputs.paths, inputs.groups, strict=True):
        wanted = float(np.mean([shares.get(group.name, 0.0) for group in groups]))
        found.append(path.gone / max(wanted, 1e-6))
    return found


def starts(setup: PlanSetup) -> tuple[Space | None, list[Allotment], list[Plan]]:
    """The space of candidates, the one-shot allocations in it, and their plans.

    There is no space where every group has a ratio of its own, so that nothing is shared out.

    Raises:
        PlanError: a budget is out of reach, or there is no plan.
    """
    met: list[tuple[Allocator, Problem, Ids]] = []

    def noted(name: str, allocator: Allocator, problem: Problem) -> Ids | None:
        passed = allocator.by_priority(problem, ALLOCATIONS[name])
        if passed is not None:
            met.append((allocator, problem, passed))
        return passed

    plans, last = [], []
    for name in STARTS:
        plans.append(plan_once(setup, share=partial(noted, name)))
        last += met[-1:]
    if not last:
        return None, [], plans
    allocator, problem, _ = last[0]
    alike = [Allotment(passed) for _, other, passed in last if _alike(other, problem)]
    return Space(setup, allocator, problem), alike, plans


def _alike(one: Problem, other: Problem) -> bool:
    return np.array_equal(one.state.lengths, other.state.lengths)
