"""Plans that meet a latency: search on the table of kernels, measure the result, and aim again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import nn

from graphprune.errors import InputError, PlanError
from graphprune.graph.analysis import Analysis
from graphprune.planning.budgets import Budget, parse_budgets
from graphprune.planning.kernel_table import KernelTable, measure
from graphprune.planning.latency import LatencyModel
from graphprune.planning.objectives import PredictedLatency
from graphprune.planning.options import Request, Runner
from graphprune.planning.planner import Planner, require_groups
from graphprune.pruning.plan import Plan
from graphprune.utils.contexts import preserve_modes
from graphprune.utils.operators import Args, Kwargs

ATTEMPTS = 8


TOLERANCE = 0.04
"""A plan is taken when the latency is at most this fraction below the budget."""


AIM = 0.98
"""Where an attempt aims, in parts of the budget: half of the tolerance is left for noise."""


WATCHED, RUNS = 1.0, 7
"""Seconds for which whole models are measured, and how many times each at least."""


@dataclass(frozen=True)
class Stopwatch:
    """Measures a model as the user runs it: ``runner`` is ``torch.compile`` or the like; None: eagerly."""

    args: Args
    kwargs: Kwargs
    runner: Runner | None = None

    def seconds(self, *models: nn.Module) -> list[float]:
        """The median times of a forward pass of each, in turn, in evaluation mode, without gradients."""
        with preserve_modes(*models), torch.no_grad():
            runs = [self.runner(model.eval()) if self.runner else model.eval() for model in models]
            return measure(*(partial(run, *self.args, **self.kwargs) for run in runs), shortest=WATCHED, least=RUNS)


def plan_for_latency(graph: Analysis, request: Request, table: KernelTable | None = None) -> Plan:
    """A plan whose slim model was measured to meet the latency budget of ``request``; it meets the others too.

    If the caller leaves it open, numbers of channels are those that kernels are written for; where these are too coarse
    to come near the budget, any numbers.

    Raises:
        PlanError: the model is on ``meta``, or no attempt met the budget; the message says what was reached.
    """
    require_groups(graph)
    if any(p.is_meta for p in graph.model.parameters()):
        raise PlanError("latency: the model is on the meta device and cannot be measured; load it first")
    watch = Stopwatch(*graph.example, request.run_with)
    (dense,) = watch.seconds(graph.model)
    (asked,) = parse_budgets({"latency": request.budgets["latency"]}, lambda _: dense)
    if asked.limit >= dense:
        raise InputError(f"latency: {asked.text} is no less than the model takes now, {dense * 1e3:.2f} ms")
    table = table or KernelTable(next(graph.model.parameters()).device)
    found: list[tuple[float, Plan]] = []
    failure: PlanError | None = None
    for ask in (request, replace(request, multiple=1)) if request.in_lanes else (request,):
        try:
            found.append(_LatencySearch(graph, ask, watch, asked, dense, table).plan())
        except PlanError as error:
            failure = error
        if found and found[-1][0] >= asked.limit * (1 - TOLERANCE):
            break
    if failure is not None and not found:
        raise failure
    took, plan = max(found, key=lambda pair: pair[0])
    return replace(plan, requested={**plan.requested, "measured latency": f"{took * 1e3:.2f} ms"})


class _LatencySearch:
    """Attempts at one latency.

    Every attempt is measured beside the dense model, and counted as if that took as long as it did at first.
    """

    def __init__(
        self,
        graph: Analysis,
        request: Request,
        watch: Stopwatch,
        asked: Budget,
        dense: float,
        table: KernelTable,
    ) -> None:
        self.graph, self.request, self.watch, self.asked = graph, request, watch, asked
        self.table = table
        self.planner = Planner(graph, request)
        nodes = graph.nodes_without(self.planner.skipped)
        self.model = LatencyModel(graph.labelling, graph.units, nodes, self.table)
        everything = np.ones(len(graph.solution.reason), bool)
        self.dense = dense
        self.scale = dense / self.model.seconds(everything)
        self.seen = [(dense, dense)]
        self.best: tuple[float, Plan] | None = None

    def plan(self) -> tuple[float, Plan]:
        """The slowest plan that was measured to be fast enough, and what it takes.

        Raises:
            PlanError: there was none.
        """
        aim = wanted = AIM * self.asked.limit
        for _ in range(ATTEMPTS):
            plan = self._attempt(aim)
            if plan is None:
                aim = (aim + min(predicted for predicted, _ in self.seen)) / 2
                continue
            took = self.seen[-1][1]
            if took <= self.asked.limit and (self.best is None or took > self.best[0]):
                self.best = took, plan
            if self.asked.limit * (1 - TOLERANCE) <= took <= self.asked.limit:
                break
            aim = self._next(wanted)
        self.table.save()
        if self.best is None:
            least = min(took for _, took in self.seen)
            raise PlanError(
                f"latency: {self.asked.text} is {self.asked.limit * 1e3:.2f} ms and was not reached; the fastest of "
                f"{len(self.seen) - 1} attempts took {least * 1e3:.2f} ms. Ask for more, or raise max_ratio"
            )
        return self.best

    def _attempt(self, aim: float) -> Plan | None:
        """A plan for a predicted latency; what was predicted and measured is noted.

        None: nothing is predicted to be so fast, though something slower was: noise has led the line too low.
        """
        timing = self.planner.timing = PredictedLatency(self.model, self.scale, replace(self.asked, limit=aim))
        try:
            plan = self.planner.plan()
        except PlanError:
            if len(self.seen) > 1:
                return None
            raise
        predicted = timing.seconds(self.graph.alive(plan.removed))
        dense, took = self.watch.seconds(self.graph.model, plan.apply(self.graph.model))
        self.seen.append((predicted, took * self.dense / dense))
        return plan

    def _next(self, wanted: float) -> float:
        """Where a line says, between the slowest attempt that was fast enough and the fastest that was not.

        As long as none was fast enough, further down the line through the last two, by a half at most.
        """
        fast = [pair for pair in self.seen if pair[1] <= self.asked.limit]
        (p, m) = min((pair for pair in self.seen if pair[1] > self.asked.limit), key=lambda pair: pair[0])
        (q, n) = max(fast, key=lambda pair: pair[0]) if fast else self.seen[-2]
        slope = (m - n) / (p - q) if p != q else 0.0
        guess = p + (wanted - m) / slope if slope > 0 else p * wanted / m
        if not fast:
            return min(max(guess, 0.5 * p), 0.95 * p)
        return min(max(guess, q + 0.1 * (p - q)), p - 0.1 * (p - q))
