"""Prune physically amid a training loop, step by step of a schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import Struct, to_builtins
from torch import nn
from typing_extensions import Unpack

from graphprune.api import ChannelGraph, trace
from graphprune.evolution.choosing import choose_plan
from graphprune.importance.criteria import find_criterion
from graphprune.importance.experts import reap
from graphprune.planning.allocations import SEARCHED
from graphprune.planning.keyword_arguments import PlanArguments, takes_options
from graphprune.planning.options import PruningOptions
from graphprune.planning.requirements import require_batches
from graphprune.planning.unit_scores import UnitScores
from graphprune.pruning.optimizer import AVERAGES, Optimizers, prune_in_place, several
from graphprune.pruning.plan import Plan, plans_of
from graphprune.pruning.resuming import remaining_plans, replayed_without_data
from graphprune.training.schedules import Schedule, check_schedule, check_step
from graphprune.training.targets import PruningTargets
from graphprune.utils.checks import check_sequence
from graphprune.utils.tables import Printed, Table
from graphprune.utils.typed_json import Count, convert_data


@dataclass(frozen=True)
class Cut:
    """What one pruning did: after ``step`` steps, the parameters and MACs (multiply-adds) that are left."""

    step: Count
    params: Count
    macs: Count


class PrunerState(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a :class:`GradualPruner` stands.

    Attributes:
        steps: how many were counted.
        looked: the last step at which something was due; None: nothing was yet.
        cut: the last one at which there was a whole channel to remove; None: there was none yet.
        earlier: how many plans the model had gone through before.
        plans: those since then, as JSON data.
    """

    steps: Count
    looked: Count | None
    cut: Count | None
    earlier: Count
    targets: PruningTargets
    history: tuple[Cut, ...]
    plans: tuple[dict[str, Any], ...]


class GradualPruner(Printed):
    """Prunes a model in place while it is trained: call :meth:`step` after every step of the optimizer.

    The model stays the same object, of the same class. Each pruning chooses from the channels that are there, as a
    plan would (:class:`graphprune.PruningOptions`), and the optimizer's state and averages are carried along
    (:func:`graphprune.prune_in_place`). Tensors of the model are new afterwards: a wrapper that keeps them, such
    as ``DistributedDataParallel``, must be made again.

    Args:
        model: what is trained. Numbers and fractions are of what it is when the first step is counted.
        example_inputs: a tensor, a tuple of positional or a dict of keyword arguments; None: found from the model.
        schedule: when how much is gone, in steps: :class:`graphprune.Gradual`, ``Iterative`` or ``OneShot``.
        ratio: the fraction of channels that are gone in the end; None: ``options`` have budgets (``macs=0.5``; what
            remains goes from 1 to 0.5 as the schedule says) or ratios by role. A latency becomes numbers of channels
            when the pruner is made: it is measured then, and not amid training.
        optimizer: one or several.
        averages: moving averages of the model.
        outputs: see :func:`graphprune.trace`.
        options: all other arguments of a plan, for the end. ``calibration`` is read by every plan.

    Attributes:
        steps: how many were counted.
        history: what was done so far.

    Raises:
        InputError, PlanError: there is no such plan, or no such pruning amid training: ``importance="auto"``.

    Warns:
        NothingRemovedWarning, UnreachedWarning: in the end, as for :meth:`graphprune.ChannelGraph.plan`.
    """

    @takes_options
    def __init__(
        self,
        model: nn.Module,
        example_inputs: Any,
        schedule: Schedule,
        *,
        ratio: float | None = None,
        optimizer: Optimizers = None,
        averages: Sequence[nn.Module] = (),
        outputs: Callable[[Any], Any] | None = None,
        **options: Unpack[PlanArguments],
    ) -> None:
        check_schedule(schedule)
        self.model = model
        self.example_inputs = example_inputs
        self.schedule = schedule
        self.optimizers = several(optimizer)
        check_sequence("averages", averages, nn.Module, AVERAGES)
        self.averages = tuple(averages)
        self.outputs = outputs
        self.ratio = ratio
        self.options = options
        self.steps = 0
        self.history: tuple[Cut, ...] = ()
        self._looked: int | None = None  # the last step at which something was due
        self._cut: int | None = None  # the last one at which there was a whole channel to remove
        self._earlier = len(plans_of(model))
        graph = self._trace()
        self._targets = PruningTargets.of(graph, ratio, options)
        _check_scored(graph, PruningOptions.of(ratio, options))

    def step(self) -> Plan | None:
        """Count one step of training, and prune if it is time to.

        Returns:
            What was pruned, if anything was.

        Raises:
            PlanError: the model that is there has nothing left to give. It is unchanged then.
        """
        return self.at(self.steps + 1)

    def at(self, step: int) -> Plan | None:
        """The same for loops that count steps themselves: ``step`` steps were taken in all."""
        check_step(step, self.steps)
        plan = self._pruned(step) if self._targets.due(self.schedule, step, self._looked) else None
        self.steps = step
        return plan

    def _pruned(self, step: int) -> Plan | None:
        graph = self._trace()
        asked = self._targets.ask(graph, self.options, self.schedule, step, self._cut)
        plan = None if asked is None else choose_plan(graph, PruningOptions.of(asked.pop("ratio", None), asked))
        self._looked = step
        if plan is None or not (plan.kept or plan.skipped):
            return None
        cost = graph.cost(plan)
        prune_in_place(self.model, plan, self.optimizers, self.averages)
        self.history = (*self.history, Cut(step, cost.params, cost.macs))
        self._cut = step
        return plan

    def _trace(self) -> ChannelGraph:
        return trace(self.model, self.example_inputs, outputs=self.outputs)

    # ------------------------------------------------------------ to go on later

    def state(self) -> dict[str, Any]:
        """Where the pruning stands, with the plans so far, as JSON data."""
        state = PrunerState(
            steps=self.steps,
            looked=self._looked,
            cut=self._cut,
            earlier=self._earlier,
            targets=self._targets,
            history=self.history,
            plans=tuple(plan.to_data() for plan in plans_of(self.model)[self._earlier :]),
        )
        data: dict[str, Any] = to_builtins(state)
        return data

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state` was called; before an optimizer's state or the model's weights are loaded.

        The model is the dense one, or was pruned by some or all of the plans; those that are left are applied.

        Raises:
            LoadError: the state is not that of a pruner, or is that of another model. Nothing is changed then.
        """
        saved = convert_data(state, PrunerState, "state", "pass what GradualPruner.state() returned")
        plans = [Plan.from_data(plan, "state") for plan in saved.plans]
        remaining = remaining_plans(self.model, plans, "state", saved.earlier)
        replayed_without_data(self.model, remaining, "the state", before=len(plans) - len(remaining))
        for plan in remaining:
            prune_in_place(self.model, plan, self.optimizers, self.averages)
        self.steps, self._looked, self._cut = saved.steps, saved.looked, saved.cut
        self._earlier = saved.earlier
        self._targets = saved.targets
        self.history = saved.history

    def _summary(self) -> str:
        return f"{type(self).__name__} of {type(self.model).__name__}, {self.schedule}, after {self.steps} steps"

    def _parts(self) -> Iterator[str | Table]:
        yield self._summary()
        columns = ("after step", "parameters", "MACs")
        rows = ((str(cut.step), f"{cut.params:,}", f"{cut.macs:,}") for cut in self.history)
        if self.history:
            yield Table("", columns, tuple(rows), numbers=columns)


def _check_scored(graph: ChannelGraph, asked: PruningOptions) -> None:
    """Raise what the first plan would raise of its criterion or its search, when training has gone on for long."""
    scores = UnitScores(graph, asked)
    if find_criterion(asked.criterion).score is reap and not any(g.role == "experts" for g in graph.groups):
        scores.of_group(0)
    if asked.allocation == SEARCHED:
        do = "pass calibration=, a list of batches as the model takes them, or another allocation="
        require_batches(asked.calibration, f"allocation={SEARCHED!r}", "judges candidates", do)
