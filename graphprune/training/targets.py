"""Where a schedule ends, in numbers of the dense model; and what to ask of the smaller model that is there by now.

Numbers of channels are those of the dense model throughout, and rounded once: a layer of eight channels that is to
lose half of them in ten rounds would otherwise lose none, because no round would take a whole one. What is chosen is
chosen again each time, from what is there. Budgets that are counted are met on the way, by searches. A latency is
measured once: clocks would make a training that is taken up again go another way.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from math import floor
from typing import Annotated, Any

from msgspec import Meta

from graphprune.api import ChannelGraph
from graphprune.errors import InputError
from graphprune.evolution.candidates import STARTS
from graphprune.evolution.choosing import choose_plan
from graphprune.graph.groups import Group
from graphprune.planning.allocations import SEARCHED
from graphprune.planning.depth_units import DepthUnits
from graphprune.planning.empty_requests import warn_of_empty_choices
from graphprune.planning.frozen_parts import FrozenParts
from graphprune.planning.keyword_arguments import PlanArguments
from graphprune.planning.limits import GroupNamed, Limit, Override, group_limits, share_kept
from graphprune.planning.objectives import parse_budgets
from graphprune.planning.options import PruningOptions
from graphprune.planning.setup import no_block, removable_blocks
from graphprune.planning.unreached import warn_of_unreached
from graphprune.pruning.plan import Plan
from graphprune.training.schedules import Schedule, of_present, remaining_at, total_at
from graphprune.utils.checks import with_article
from graphprune.utils.typed_json import Count, Positive, convert_data

_PASSED = (
    "head_width qk_width importance calibration loss_fn reduce normalize allocation candidates time_limit protect_ends "
    "layers serve tensor_parallel seed"
).split()
"""What every plan on the way is asked as the last one would be."""

_OF_SEARCHES = ("candidates", "time_limit", "depth")
"""What an allocation that is not searched does not take, or takes otherwise."""

Amount = Annotated[float, Meta(gt=0, le=sys.float_info.max)]
"""MACs, parameters or bytes."""


@dataclass(frozen=True)
class GroupTarget:
    """Of a group: how many units it has in the dense model, how many are kept in the end, and within which limits.

    ``kept`` is None where that is left to the search of every plan. The rest is as in a limit.
    """

    units: Positive
    kept: Count | None
    least: Count
    multiple: Positive
    frozen: bool = False
    frozen_modules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if max(self.least, self.kept or 0) > self.units:
            raise ValueError(f"least is {self.least} and kept is {self.kept}, but there are {self.units} units")

    def override(self, units: int, step: int, schedule: Schedule) -> Override:
        """What a plan after ``step`` steps is asked of the group, which has ``units`` by now."""
        if self.frozen:
            return Override(frozen=True)
        ratio = None
        if self.kept is not None:
            wanted = share_kept(self.units, total_at(schedule, step, 1 - self.kept / self.units))
            ratio = max(units - wanted, 0) / units
        return Override(ratio=ratio, min_units=self.least, multiple=self.multiple)


@dataclass(frozen=True)
class PruningTargets:
    """Where a schedule ends.

    Attributes:
        groups: by name.
        ratio: the fraction of all channels, where their distribution is left to a search.
        dense, budgets: what the dense model costs, and what the last one may (MACs, parameters, bytes).
        blocks, skipped: how many residual blocks there are (branches, where a search chooses), and how many of them are
            left out.
    """

    groups: Mapping[str, GroupTarget]
    ratio: Annotated[float, Meta(ge=0, lt=1)] | None
    dense: Mapping[str, Amount]
    budgets: Mapping[str, Amount]
    blocks: Count
    skipped: Count

    def __post_init__(self) -> None:
        for kind, limit in self.budgets.items():
            if limit > self.dense.get(kind, 0.0):
                raise ValueError(f"budgets: {kind} is {limit}, but dense is {dict(self.dense)}")
        if self.skipped > self.blocks:
            raise ValueError(f"skipped: is {self.skipped}, but there are {self.blocks} blocks")

    @staticmethod
    def of(graph: ChannelGraph, ratio: float | None, options: PlanArguments) -> PruningTargets:
        """The targets of the plan ``graph.plan(ratio, **options)``.

        Raises:
            InputError, PlanError: there is no such plan.

        Warns:
            NothingRemovedWarning, UnreachedWarning: as for that plan.
        """
        if isinstance(options.get("calibration"), Iterator):
            raise InputError(
                "calibration: can be read only once",
                found=f"{with_article(type(options.get('calibration')).__name__)}",
                needed="batches that every plan can read",
                do="pass a list or a DataLoader",
            )
        request = PruningOptions.of(ratio, options)
        timed = request.latency is not None
        if timed and request.depth:
            raise InputError(
                "depth: given together with latency",
                found=f"depth={request.depth} and latency={request.latency!r}",
                needed="one of them",
                do="leave out blocks first, then prune the slim model to a latency",
            )
        costs = graph.cost()
        asked = {} if timed else request.budget_specs
        dense = {kind: float(costs[kind]) for kind in asked}
        blocks = _blocks_to_choose_from(graph, request) if request.depth else 0
        plan = _plan_of_counts(graph, request, options)
        warn_of_empty_choices(graph, request, plan.choices, blocks)
        warn_of_unreached(graph, plan)
        return PruningTargets(
            groups=_goals(graph, request, plan),
            ratio=request.ratio if request.searched else None,
            dense=dense,
            budgets={b.kind: min(b.limit, dense[b.kind]) for b in parse_budgets(asked, dense.__getitem__)},
            blocks=blocks,
            skipped=floor((request.depth or 0.0) * blocks + 1e-9),
        )

    @staticmethod
    def from_data(data: object) -> PruningTargets:
        """The inverse of :meth:`data`.

        Raises:
            LoadError: these are no targets, or contradict each other.
        """
        return convert_data(data, PruningTargets, "targets", "pass what PruningTargets.data() returned")

    def data(self) -> dict[str, Any]:
        """JSON data."""
        return asdict(self)

    def due(self, schedule: Schedule, step: int, done: int | None) -> bool:
        """Is more to be removed after ``step`` steps than after ``done`` of them? None: nothing is gone yet."""
        finals = [1 - g.kept / g.units for g in self.groups.values() if g.kept is not None]
        finals += [1 - limit / self.dense[kind] for kind, limit in self.budgets.items()]
        finals += [self.ratio or 0.0, self.skipped / max(self.blocks, 1)]
        return any(total_at(schedule, step, final) > _gone(schedule, done, final) for final in finals)

    def ask(
        self, present: ChannelGraph, options: PlanArguments, schedule: Schedule, step: int, done: int | None
    ) -> dict[str, Any] | None:
        """The arguments of the plan that brings the present model to where the schedule is after ``step`` steps.

        Args:
            present: the channel graph of the model that is there.
            options: those that the targets were made of.
            done: the step of the last plan that removed something; None: there was none.

        Returns:
            None if there is nothing to remove yet.
        """
        asked: dict[str, Any] = {name: value for name, value in options.items() if name in _PASSED}
        goals = ((g, self.groups[g.name]) for g in present.groups if g.name in self.groups)
        overrides = {
            GroupNamed(g.name, goal.frozen_modules): goal.override(g.units, step, schedule) for g, goal in goals
        }
        some = any(override.ratio for override in overrides.values())
        budgets = self._budgets(present, schedule, step)
        asked |= budgets
        gone = floor(total_at(schedule, step, self.skipped / max(self.blocks, 1)) * self.blocks + 1e-9)
        there = _removable(present, options.get("allocation"), _frozen_by(present, overrides)) if self.blocks else 0
        depth = max(gone - (self.blocks - there), 0)
        if self.ratio is not None:
            asked["ratio"] = of_present(total_at(schedule, step, self.ratio), _gone(schedule, done, self.ratio))
        elif not self.budgets:
            asked["ratio"] = 0.0
        if not (some or depth or asked.get("ratio") or budgets):
            return None
        return asked | {"overrides": overrides, "max_ratio": 1.0, "depth": depth / max(there, 1) or None}

    def _budgets(self, present: ChannelGraph, schedule: Schedule, step: int) -> dict[str, float]:
        """What the present model exceeds of the budgets after ``step`` steps: numbers."""
        costs, found = present.cost(), {}
        for kind, limit in self.budgets.items():
            wanted = self.dense[kind] * remaining_at(schedule, step, limit / self.dense[kind])
            if wanted < costs[kind]:
                found[kind] = max(wanted, 1.5)  # up to 1 it would be a fraction
        return found


def _gone(schedule: Schedule, done: int | None, final: float) -> float:
    """The total after the plan of step ``done``; None: there was no plan, whatever the schedule says of its begin."""
    return 0.0 if done is None else total_at(schedule, done, final)


def _removable(graph: ChannelGraph, allocation: object, frozen: FrozenParts) -> int:
    """How many blocks there are to leave out some of, or branches too where a search chooses."""
    return len(DepthUnits.of(graph, frozen)) if allocation == SEARCHED else len(graph.blocks)


def _blocks_to_choose_from(graph: ChannelGraph, request: PruningOptions) -> int:
    """How many of them there are.

    Raises:
        PlanError: there is none that can be left out, or not so many.
    """
    frozen = _frozen_by(graph, request.overrides)
    if request.allocation != SEARCHED:
        removable_blocks(graph, request, frozen)
    found = _removable(graph, request.allocation, frozen)
    if not found:
        raise no_block(graph, request, frozen)
    return found


def _frozen_by(graph: ChannelGraph, overrides: Mapping[Any, Override]) -> FrozenParts:
    limits = group_limits(graph.groups, overrides, {}, Override(), graph.model)
    return FrozenParts.of(graph.groups, limits)


def _goals(graph: ChannelGraph, request: PruningOptions, plan: Plan) -> dict[str, GroupTarget]:
    groups = graph.units.groups
    limits = group_limits(groups, request.overrides, request.role_ratios, request.limits, graph.model)
    searched = request.searched and request.latency is None
    kept = None if searched else {choice.group: choice.kept for choice in plan.choices}
    return {g.name: _goal(g, limit, kept) for g, limit in zip(groups, limits, strict=True)}


def _goal(group: Group, limit: Limit, kept: Mapping[str, int] | None) -> GroupTarget:
    own = None if limit.ratio is None else share_kept(group.units, limit.ratio)
    goal = own if kept is None else kept[group.name]
    return GroupTarget(group.units, goal, limit.least, limit.multiple, limit.frozen, limit.frozen_modules)


def _plan_of_counts(graph: ChannelGraph, request: PruningOptions, options: PlanArguments) -> Plan:
    """A plan of the dense model that keeps as many units of each group as are asked for, or within the budgets.

    Which of them are kept does not matter here, so they are drawn. A search is made to see that it finds something.
    """
    if request.latency is not None:
        return choose_plan(graph, PruningOptions.of(request.ratio, options))
    drawn: dict[str, Any] = {**options, "importance": "random", "calibration": None, "loss_fn": None}
    if request.allocation == SEARCHED:  # which starts from one that needs no data
        drawn = {name: value for name, value in drawn.items() if name not in _OF_SEARCHES} | {"allocation": STARTS[0]}
    if request.searched:
        return choose_plan(graph, PruningOptions.of(request.ratio, drawn))
    return choose_plan(graph, PruningOptions.of(request.ratio or 0.0, drawn | {"depth": None}))
