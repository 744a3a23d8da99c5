"""What uniform ratios remove and cost, as data that a page evaluates: by ratio, how often each coupled step is taken.

The cost of a choice is a sum of products of sizes (:mod:`graphprune.graph.cost`), and the size of a dimension falls by
a whole number of entries with every repetition of a coupled step. So steps, slopes and products are all that a page
needs to count what ``graph.cost(graph.plan(ratio))`` counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import Struct, structs

from graphprune.errors import PlanError
from graphprune.graph.analysis import Analysis
from graphprune.graph.candidates import candidates
from graphprune.graph.constraints import SizeConstraints
from graphprune.graph.coupled_steps import CoupledStep
from graphprune.planning.allocate import Allocator
from graphprune.planning.limits import share_kept
from graphprune.planning.options import PruningOptions
from graphprune.planning.planner import Chooser, planned
from graphprune.planning.setup import PlanSetup
from graphprune.pruning.plan import Plan
from graphprune.report.short_paths import without_folders
from graphprune.utils.arrays import Ids, Mask

HIGHEST = 90
"""The slider ends at this percentage."""
MOST_TRIALS = 30
"""When so many plans have been made, ranges in which different units may go are cut no further."""


class RatioRange(Struct, frozen=True):
    """Percentages at which the same units may go.

    Attributes:
        first, last: the percentages, both included.
        error: why there is no plan at them; empty: there is one.
        steps: for each coupled step the groups that lose units, and how many at a time.
        schedule: for each coupled step the number of its schedule.
        schedules: how often a step is taken, at each percentage.
        slopes: by the number of a dimension, pairs of a step and the entries that go with one repetition.
        exact: sizes are those of every plan that was made for one of these percentages, and the same units may go in
            all of them.
        why: for each group, what decided how many of its units stay at the last percentage.
    """

    first: int
    last: int
    error: str = ""
    steps: list[list[tuple[int, int]]] = []
    schedule: list[int] = []
    schedules: list[list[int]] = []
    slopes: dict[int, list[tuple[int, int]]] = {}
    exact: bool = False
    why: list[str] = []


@dataclass(frozen=True, eq=False)
class _Trial:
    """The plan for one percentage, and how it was allocated; without, the reason."""

    percent: int
    plan: Plan | None = None
    allocator: Allocator | None = None
    error: str = ""

    @staticmethod
    def of(graph: Analysis, percent: int) -> _Trial:
        allocators: list[Allocator] = []
        try:
            setup = PlanSetup.of(graph, PruningOptions.of(percent / 100, {"importance": "random"}))

            def choose(
                free: Mask, constraints: SizeConstraints, same_entries: frozenset[int], multiples: Mapping[int, int]
            ) -> tuple[Ids, dict[int, str]]:
                allocators.append(Allocator(setup, free, constraints, same_entries, None, multiples))
                return allocators[-1].removed(), allocators[-1].why

            plan, _ = planned(setup, Chooser(setup.reached, (), choose))
        except PlanError as error:
            return _Trial(percent, error=error.what)
        return _Trial(percent, plan, allocators[-1])

    def alike(self, other: _Trial) -> bool:
        """May the same units go?"""
        if self.allocator is None or other.allocator is None:
            return self.allocator is other.allocator
        return np.array_equal(self.allocator.free, other.allocator.free)

    def holds_nothing(self, graph: Analysis) -> bool:
        """May everything go that sizes in the program allow, because nothing turned out wrong?"""
        if self.allocator is None:
            return False
        return np.array_equal(self.allocator.free, candidates(graph, self.allocator.setup.reached)[0])


@dataclass(eq=False)
class _Trials:
    """Makes trials, and counts them."""

    graph: Analysis
    made: int = 0

    def at(self, percent: int) -> _Trial:
        self.made += 1
        return _Trial.of(self.graph, percent)

    @property
    def many(self) -> bool:
        """Have so many been made that a page would take too long?"""
        return self.made >= MOST_TRIALS


def ratio_ranges(graph: Analysis) -> list[RatioRange]:
    """What the percentages from 1 to :data:`HIGHEST` remove.

    A plan is made for the last percentage of each range; where units are held in it that sizes in the program would
    allow to go, also for lower ones.
    """
    found: list[RatioRange] = []
    trials = _Trials(graph)
    for first, last in _reaches(graph):
        high = trials.at(last)
        if first == last or high.holds_nothing(graph):
            found.append(_ratio_range(graph, first, [high]))
        else:
            ranges = _alike_ranges(trials, trials.at(first), high)
            found += [_ratio_range(graph, alike[0].percent, alike) for alike in ranges]
    return found


def _reaches(graph: Analysis) -> list[tuple[int, int]]:
    """Ranges of percentages that are enough for one of the same heads (or groups, of a convolution).

    Which units may go depends on it: where no whole head goes, what is nested in it may.
    """
    rows = sorted({g.units for g in graph.units.groups if graph.units.kind_of(g.unit_ids) == "row"})
    reached = [[share_kept(n, percent / 100) < n for n in rows] for percent in range(1, HIGHEST + 1)]
    starts = [1, *(p + 1 for p in range(1, HIGHEST) if reached[p] != reached[p - 1])]
    return list(zip(starts, [*(s - 1 for s in starts[1:]), HIGHEST], strict=True))


def _alike_ranges(trials: _Trials, low: _Trial, high: _Trial) -> list[list[_Trial]]:
    """Cut a range where other units may go, by halving; trials of the same part stand together.

    When too many plans have been made, a part may hold trials in which other units may go: it is not exact.
    """
    enough = trials.many and low.allocator is not None and high.allocator is not None
    if low.alike(high) or enough:
        return [[low, high]]
    if high.percent - low.percent == 1:
        return [[low], [high]]
    middle = trials.at((low.percent + high.percent) // 2)
    *before, left = _alike_ranges(trials, low, middle)
    right, *after = _alike_ranges(trials, middle, high)
    return [*before, [*left, *right[1:]], *after]


def _ratio_range(graph: Analysis, first: int, trials: Sequence[_Trial]) -> RatioRange:
    """The range from ``first`` to the last trial, in which the units of that one may go."""
    high = trials[-1]
    if high.allocator is None or high.plan is None:
        return RatioRange(first, high.percent, without_folders(high.error))
    coupled = high.allocator.coupled_steps()
    numbers: dict[tuple[int, ...], int] = {}
    schedule = []
    for one in coupled:
        taken = _schedule(high.allocator, one, range(first, high.percent + 1))
        schedule.append(numbers.setdefault(taken, len(numbers)))
    found = RatioRange(
        first,
        high.percent,
        steps=[[(p.group, n) for p, n in zip(one.parts, one.each, strict=True)] for one in coupled],
        schedule=schedule,
        schedules=[list(taken) for taken in numbers],
        slopes=_slopes(graph, coupled),
        why=[without_folders(choice.why) for choice in high.plan.choices],
    )
    return structs.replace(found, exact=all(one.alike(high) and _is_exact(graph, found, one) for one in trials))


def _schedule(allocator: Allocator, coupled: CoupledStep, percentages: range) -> tuple[int, ...]:
    """How often a step is taken at each percentage."""
    return tuple(allocator.repetitions(coupled, [percent / 100] * len(coupled.parts)) for percent in percentages)


def _slopes(graph: Analysis, coupled: Sequence[CoupledStep]) -> dict[int, list[tuple[int, int]]]:
    """By dimension, the steps that shorten it, and by how many entries."""
    dimensions, solution = graph.costs.dimensions, graph.solution
    dense = graph.costs.dense_counts
    found: dict[int, list[tuple[int, int]]] = {}
    for number, one in enumerate(coupled):
        if not one.steps:
            continue
        gone = [part.unit_ids[:each] for part, each in zip(one.parts, one.each, strict=True)]
        shorter = dense - dimensions.counts(solution.alive(np.concatenate(gone)))
        for dimension in np.flatnonzero(shorter).tolist():
            found.setdefault(dimension, []).append((number, int(shorter[dimension])))
    return found


def _is_exact(graph: Analysis, found: RatioRange, trial: _Trial) -> bool:
    """Are all sizes those of a plan, and the groups' numbers of units?"""
    if trial.plan is None:
        return False
    counts = graph.costs.dimensions.counts(graph.alive(trial.plan.removed))
    gone = [0] * len(graph.units.groups)
    for step, taken in zip(found.steps, repetitions_at(found, trial.percent), strict=True):
        for group, each in step:
            gone[group] += each * taken
    return sizes_at(graph, found, trial.percent) == counts.tolist() and gone == [
        len(choice.removed) for choice in trial.plan.choices
    ]


def repetitions_at(found: RatioRange, percent: int) -> list[int]:
    """How often each step is taken."""
    return [found.schedules[number][percent - found.first] for number in found.schedule]


def sizes_at(graph: Analysis, found: RatioRange, percent: int) -> list[int]:
    """The sizes of all dimensions, as the page works them out."""
    sizes: list[int] = graph.costs.dense_counts.tolist()
    taken = repetitions_at(found, percent)
    for dimension, slopes in found.slopes.items():
        sizes[dimension] -= sum(slope * taken[step] for step, slope in slopes)
    return sizes
