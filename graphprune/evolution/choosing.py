"""From options to a plan, whatever is asked: by an allocation at once, by measured latency, or by a search."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from graphprune.calibration.batches import InputsOnly
from graphprune.calibration.moments import ConsumerStatistics
from graphprune.calibration.statistics import Statistics
from graphprune.evolution.candidates import Allotment, Space, starts
from graphprune.evolution.evolve import Evolution, Limits
from graphprune.evolution.fitted_layers import FittedLayers
from graphprune.evolution.judging import CandidateJudge
from graphprune.graph.analysis import Analysis
from graphprune.planning.allocations import SEARCHED
from graphprune.planning.latency_search import plan_for_latency
from graphprune.planning.options import PruningOptions
from graphprune.planning.planner import make_plan
from graphprune.planning.requirements import require_batches, require_one_process, require_weights
from graphprune.planning.setup import PlanSetup
from graphprune.pruning.plan import Plan
from graphprune.reconstruction.pipeline import repair
from graphprune.utils.random_state import random_numbers_kept

FINALISTS = 3
"""So many of the best candidates are repaired as the slim model will be, and judged again."""
MOMENTS = 2**31
"""Consumers are fitted if their second moments take at most so many bytes."""


def choose_plan(graph: Analysis, options: PruningOptions, statistics: Statistics | None = None) -> Plan:
    """See :meth:`graphprune.ChannelGraph.plan`; nothing is warned of but an interruption.

    Args:
        graph: the analyzed model.
        options: what is asked.
        statistics: those of the calibration batches, if several plans share them; None: they are made.
    """
    if options.allocation == SEARCHED:
        return _searched(graph, options, statistics)
    if options.latency is not None:
        return plan_for_latency(graph, options, statistics=statistics)
    return make_plan(graph, options, statistics)


@dataclass(eq=False)
class _Trials:
    """Judges candidates as they would be repaired, nearly so or really."""

    model: nn.Module
    judge: CandidateJudge
    space: Space
    layers: FittedLayers
    batches: Any
    seconds: list[float] = field(default_factory=list)

    def loss_of(self, candidate: Allotment) -> float:
        """The loss of a candidate, assembled from fitted layers."""
        plan = self.space.choice(candidate)
        if plan is None:
            return float("inf")
        slim = plan.apply(self.model)
        self.layers.insert(slim, plan)
        return self.judge.loss(slim)

    def repaired_loss(self, plan: Plan) -> float:
        """The loss of a plan's slim model after repair."""
        began = time.monotonic()
        slim = plan.apply(self.model)
        with random_numbers_kept():
            repair(slim, self.model, plan, self.batches)
        loss = self.judge.loss(slim)
        self.seconds.append(time.monotonic() - began)
        return loss


def _searched(graph: Analysis, options: PruningOptions, statistics: Statistics | None) -> Plan:
    """The plan of the least loss among one-shot allocations and what evolution makes of them."""
    began = time.monotonic()
    _check(graph, options)
    setup = PlanSetup.of(graph, options, statistics)
    space, first, one_shot = starts(setup)
    if space is None:
        return one_shot[0]
    calibration = options.calibration
    assert calibration is not None  # as was checked
    judge = CandidateJudge(setup.scores.model, options)
    layers = FittedLayers(setup.scores.model, _consumers(setup))
    batches = calibration if options.loss_fn is None else InputsOnly(calibration)
    trials = _Trials(setup.scores.model, judge, space, layers, batches)
    plans = [(trials.repaired_loss(plan), plan) for plan in one_shot]
    deadline = None
    if options.time_limit is not None:
        deadline = began + options.time_limit - FINALISTS * max(trials.seconds)
    evolution = Evolution(trials.loss_of, space.exchanged, options.seed)
    evolution.begin(first)
    evolution.run(Limits(options.candidates, deadline))
    return _best(trials, plans, evolution)


def _best(trials: _Trials, one_shot: Sequence[tuple[float, Plan]], evolution: Evolution) -> Plan:
    """The plan of the least loss after repair; interrupted, of the least loss of assembled candidates."""
    start = min(loss for loss, _ in one_shot)
    found = list(one_shot)
    for _, candidate in evolution.survivors[: 1 if evolution.interrupted else FINALISTS]:
        plan = trials.space.plan(candidate)
        if plan is not None:
            found.append((trials.repaired_loss(plan), plan))
    loss, plan = min(found, key=lambda pair: pair[0])
    said = {"candidates tried": evolution.tried, "loss of the start": f"{start:.4g}", "loss": f"{loss:.4g}"}
    if evolution.interrupted:
        said["interrupted"] = True
    return replace(plan, requested={**plan.requested, **said})


def _consumers(setup: PlanSetup) -> tuple[ConsumerStatistics, ...]:
    """The weights that can be fitted; none where their second moments would take too much memory."""
    graph = setup.graph
    axes = [axis for axis in graph.units.axes if len(graph.trace.shapes[axis.parameter_axis.parameter]) > 1]
    sizes = {axis.parameter_axis: axis.size for axis in axes}
    if 8 * sum(size**2 for size in sizes.values()) > MOMENTS:
        return ()
    statistics = setup.scores.context.statistics
    assert statistics is not None
    return statistics.consumers(products=True)


def _check(graph: Analysis, options: PruningOptions) -> None:
    """Raise an InputError or a PlanError unless candidates can be judged."""
    asked = f"allocation={SEARCHED!r}"
    do = "pass calibration=, a list of batches as the model takes them, or another allocation="
    require_batches(options.calibration, asked, "judges candidates", do)
    require_one_process(options.calibration, asked, "judges candidates", "another allocation=")
    if options.weights is None:
        require_weights(graph.model, asked, "run", "load the weights first, or pass another allocation=")
