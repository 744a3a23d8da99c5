"""Plans that meet a latency: search on the table of kernels, measure the result, and aim again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from graphprune.calibration.statistics import Statistics
from graphprune.errors import PlanError
from graphprune.graph.analysis import Analysis
from graphprune.planning.kernel_table import KernelTable
from graphprune.planning.latency import LatencyModel
from graphprune.planning.objectives import Budget, PredictedLatency, parse_budgets
from graphprune.planning.options import PruningOptions, Runner
from graphprune.planning.planner import plan_once
from graphprune.planning.requirements import require_one_process, require_weights
from graphprune.planning.setup import PlanSetup
from graphprune.pruning.plan import Plan
from graphprune.tracing.inputs import MethodCall
from graphprune.tracing.run_state import runs_forgotten
from graphprune.utils.random_state import random_numbers_kept
from graphprune.utils.switches import evaluation_mode
from graphprune.utils.timing import median_seconds

LATENCY_ATTEMPTS = 8


TOLERANCE = 0.04
"""A plan is taken when the latency is at most this fraction below the budget."""


AIM = 0.98
"""Where an attempt aims, in parts of the budget: half of the tolerance is left for noise."""


WATCHED, RUNS = 1.0, 7
"""Seconds for which whole models are measured, and how many times each at least."""


@dataclass(frozen=True)
class Stopwatch:
    """Measures a model as the user runs it: ``runner`` is ``torch.compile`` or the like; None: eagerly."""

    calls: Sequence[MethodCall]
    runner: Runner | None = None

    def seconds(self, *models: nn.Module) -> list[float]:
        """The median times of the calls of each, in turn, in evaluation mode, without gradients."""
        calls = [call.mapped(torch.clone) for call in self.calls]  # a model may write to its inputs
        with evaluation_mode(*models), runs_forgotten(*models), torch.no_grad():
            runs = [self.runner(model) if self.runner else model for model in models]
            return median_seconds(*(partial(_run, run, calls) for run in runs), shortest=WATCHED, least=RUNS)


def _run(model: Callable[..., Any], calls: Sequence[MethodCall]) -> None:
    for call in calls:
        call.run_afresh(model)


@random_numbers_kept()
def plan_for_latency(
    graph: Analysis,
    options: PruningOptions,
    table: KernelTable | None = None,
    statistics: Statistics | None = None,
) -> Plan:
    """A plan whose slim model was measured to meet the latency budget of ``options``; it meets the others too.

    Unless ``multiple`` is given, numbers of channels are those that kernels are written for; where these are too coarse
    to come near the budget, any numbers. Where the model meets the budget as it is, or without the blocks that
    ``depth=`` leaves out, the other arguments alone ask for something.

    Raises:
        PlanError: the model is on ``meta``, or no attempt met the budget; the message says what was reached.
    """
    require_one_process(options.calibration, "latency=", "is measured", "macs= or params=")
    setup = PlanSetup.of(graph, options, statistics)
    do = "load the weights first, and move the model to the device whose latency counts"
    require_weights(graph.model, "latency=", "measured", do)
    watch = Stopwatch(graph.examples, options.run_with)
    (dense,) = watch.seconds(graph.model)
    (budget,) = parse_budgets({"latency": options.budget_specs["latency"]}, lambda _: dense)
    if budget.limit >= dense or setup.skipped:
        took, plan = _plan_of_the_rest(replace(setup, aligned=False), watch, dense)
        if took <= budget.limit:
            return _with_measured(plan, took)
    table = table or KernelTable(next(graph.model.parameters()).device)
    found: list[tuple[float, Plan]] = []
    failure: PlanError | None = None
    for aligned in (True, False) if setup.aligned else (False,):
        one = _LatencySearch(replace(setup, aligned=aligned), watch, budget, dense, table)
        try:
            found.append(one.plan())
        except PlanError as error:
            failure = error
        if found and found[-1][0] >= budget.limit * (1 - TOLERANCE):
            break
    if failure is not None and not found:
        raise failure
    took, plan = max(found, key=lambda pair: pair[0])
    return _with_measured(plan, took)


def _plan_of_the_rest(setup: PlanSetup, watch: Stopwatch, dense: float) -> tuple[float, Plan]:
    """The plan that the other arguments ask for, and what it takes, beside a dense model that takes ``dense``."""
    plan = plan_once(setup)
    if not plan.kept and not plan.skipped:
        return dense, plan
    again, took = watch.seconds(setup.graph.model, plan.apply(setup.graph.model))
    return took * dense / again, plan


def _with_measured(plan: Plan, took: float) -> Plan:
    """The plan, with what it takes in its record."""
    return replace(plan, requested={**plan.requested, "measured latency": f"{took * 1e3:.2f} ms"})


class _LatencySearch:
    """Attempts at one latency.

    Every attempt is measured beside the dense model, and counted as if that took as long as it did at first.
    """

    def __init__(self, setup: PlanSetup, watch: Stopwatch, budget: Budget, dense: float, table: KernelTable) -> None:
        self.setup, self.watch, self.budget, self.dense, self.table = setup, watch, budget, dense, table
        graph = setup.graph
        self.model = LatencyModel(graph.labeling, graph.units, graph.nodes_without(setup.skipped), table)
        everything = np.ones(graph.solution.count, bool)
        self.scale = dense / self.model.seconds(everything)
        self.seen = [(dense, dense)]
        self.best: tuple[float, Plan] | None = None

    def plan(self) -> tuple[float, Plan]:
        """The slowest plan that was measured to be fast enough, and what it takes.

        Raises:
            PlanError: there was none.
        """
        aim = wanted = AIM * self.budget.limit
        for _ in range(LATENCY_ATTEMPTS):
            plan = self._attempt(aim)
            if plan is None:
                aim = (aim + min(predicted for predicted, _ in self.seen)) / 2
                continue
            took = self.seen[-1][1]
            if took <= self.budget.limit and (self.best is None or took > self.best[0]):
                self.best = took, plan
            if self.budget.limit * (1 - TOLERANCE) <= took <= self.budget.limit:
                break
            if all(measured <= self.budget.limit for _, measured in self.seen):
                break  # other budgets ask for more
            aim = self._next(wanted)
        self.table.save()
        if self.best is None:
            least = min(took for _, took in self.seen)
            raise PlanError(
                f"latency: {self.budget.text} is {self.budget.limit * 1e3:.2f} ms and was not reached; the fastest of "
                f"{len(self.seen) - 1} attempts took {least * 1e3:.2f} ms",
                found=self.budget.text,
                needed=f"at least {least * 1e3:.2f} ms",
                do="ask for more, or raise max_ratio",
            )
        return self.best

    def _attempt(self, aim: float) -> Plan | None:
        """A plan for a predicted latency; what was predicted and measured is noted.

        None: nothing is predicted to be so fast, though something slower was: noise has led the line too low.
        """
        latency = PredictedLatency(self.model, self.scale, replace(self.budget, limit=aim))
        try:
            plan = plan_once(self.setup, latency)
        except PlanError:
            if len(self.seen) > 1:
                return None
            raise
        predicted = latency.seconds(self.setup.graph.alive(plan.removed))
        dense, took = self.watch.seconds(self.setup.graph.model, plan.apply(self.setup.graph.model))
        self.seen.append((predicted, took * self.dense / dense))
        return plan

    def _next(self, wanted: float) -> float:
        """Where a line says, between the slowest attempt that was fast enough and the fastest that was not.

        As long as none was fast enough, further down the line through the last two, by a half at most.
        """
        fast = [pair for pair in self.seen if pair[1] <= self.budget.limit]
        (p, m) = min((pair for pair in self.seen if pair[1] > self.budget.limit), key=lambda pair: pair[0])
        (q, n) = max(fast, key=lambda pair: pair[0]) if fast else self.seen[-2]
        slope = (m - n) / (p - q) if p != q else 0.0
        guess = p + (wanted - m) / slope if slope > 0 else p * wanted / m
        if not fast:
            return min(max(guess, 0.5 * p), 0.95 * p)
        return min(max(guess, q + 0.1 * (p - q)), p - 0.1 * (p - q))
