"""From options to a plan, whatever is asked: by an allocation at once, by measured latency, or by a search."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import nn

from graphprune.calibration.batches import Batches, InputsOnly
from graphprune.calibration.moments import ConsumerStatistics
from graphprune.calibration.statistics import Statistics
from graphprune.evolution.candidates import Allotment, starts
from graphprune.evolution.depth import Candidates, Depth
from graphprune.evolution.estimates import Estimate, JudgedLoss
from graphprune.evolution.evolve import Evolution, Limits
from graphprune.evolution.fitted_layers import FittedLayers
from graphprune.evolution.folds import Fold, folds
from graphprune.evolution.judging import THOROUGH_SAMPLES, CandidateJudge
from graphprune.graph.analysis import Analysis
from graphprune.planning.allocations import SEARCHED
from graphprune.planning.depth_units import REMOVABLE
from graphprune.planning.latency_search import plan_for_latency
from graphprune.planning.options import PruningOptions
from graphprune.planning.planner import make_plan, plan_once
from graphprune.planning.requirements import require_batches, require_one_process, require_weights
from graphprune.planning.setup import PlanSetup
from graphprune.pruning.plan import Plan
from graphprune.reconstruction.pipeline import repair
from graphprune.utils.random_state import random_numbers_kept

ASSEMBLED = 0.5
"""The fraction of the time in which candidates are assembled; in the rest the best and their neighbors are repaired."""
REPAIRED = 10
"""How many candidates are assembled, at least, for each that is repaired."""
REPAIRED_STEP = 0.1
"""The largest fraction of a group's units that one step exchanges, in the beginning, where candidates are repaired."""
MOMENTS = 2**31
"""Bytes: consumers whose second moments take more are not fitted."""


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


@dataclass(frozen=True, eq=False)
class _Half:
    """One half of the batches judges what is fitted on the other.

    Attributes:
        judge: has some of the half that judges.
        layers: fitted on the other half.
        fitting: the inputs of that half.
    """

    judge: CandidateJudge
    layers: FittedLayers
    fitting: Sequence[Any]


@dataclass(eq=False)
class _Trials:
    """Judges candidates as they would be repaired, nearly so or really.

    Attributes:
        model: the dense model.
        space: the candidates.
        halves: what judges candidates that are assembled.
        thorough: judges those that are repaired with the first half, by more samples of the other one: by few samples
            the best of many is the one that suits these.
        slowest: seconds that repairing and judging one took at most.
    """

    model: nn.Module
    space: Candidates
    halves: Sequence[_Half]
    thorough: CandidateJudge
    slowest: float = 0.0

    @property
    def dense(self) -> float:
        """The loss of the dense model; the mean of both halves."""
        return sum(half.judge.dense for half in self.halves) / len(self.halves)

    def measure_depth(self, deadline: float | None) -> None:
        """Note the loss without each branch or block alone; of those that there is no time for, that it is infinite."""
        depth = self.space.depth
        depth.harm = np.full(len(depth.units), np.inf)
        for number in range(len(depth.units)):
            if deadline is None or time.monotonic() < deadline:
                depth.harm[number] = self.loss_of(self.space.whole(frozenset([number])))

    def loss_of(self, candidate: Allotment) -> float:
        """The loss of a candidate, assembled from fitted layers; the mean of both halves."""
        plan = self.space.choice(candidate)
        if plan is None:
            return float("inf")
        slim, total = plan.apply(self.model), 0.0
        for half in self.halves:
            half.layers.insert(slim, plan)
            total += half.judge.loss(slim)
        return total / len(self.halves)

    def loss_repaired(self, candidate: Allotment) -> float:
        """The loss of a candidate that is repaired with the first half."""
        plan = self.space.choice(candidate)
        return float("inf") if plan is None else self.loss_of_plan(plan)

    def loss_of_plan(self, plan: Plan) -> float:
        """The loss of a plan's slim model that is repaired with the first half."""
        began = time.monotonic()
        slim, half = plan.apply(self.model), self.halves[0]
        with random_numbers_kept():
            repair(slim, self.model, plan, half.fitting)
        loss = self.thorough.loss(slim)
        self.slowest = max(self.slowest, time.monotonic() - began)
        return loss


def _searched(graph: Analysis, options: PruningOptions, statistics: Statistics | None) -> Plan:
    """The plan of the least loss among one-shot allocations and what evolution makes of them."""
    began = time.monotonic()
    calibration = _batches(graph, options)
    setup = PlanSetup.of(graph, replace(options, calibration=calibration), statistics)
    space, first, one_shot = starts(setup)
    if space is None:
        return _by_influence(setup, one_shot[0])
    candidates = Candidates(space, Depth.of(setup))
    trials = _trials(setup, candidates, list(folds(graph.model, calibration, options.loss_fn is not None)))
    trials.measure_depth(_until(began, options, ASSEMBLED))
    estimate = Estimate.of(candidates, first[0], trials.loss_of, trials.dense)
    loss_of = JudgedLoss(trials.loss_of, trials.dense, estimate)
    assembled = Evolution(loss_of, candidates.exchanged, options.seed)
    assembled.begin([*first, *candidates.shallow()])
    ranked = [candidate for _, candidate in assembled.survivors]
    assembled.run(Limits(options.candidates, _until(began, options, ASSEMBLED)))
    loss_repaired = JudgedLoss(trials.loss_repaired, trials.thorough.dense, estimate)
    repaired = Evolution(loss_repaired, candidates.exchanged, options.seed, REPAIRED_STEP)
    repaired.begin(ranked[:1])
    best, *others = [candidate for _, candidate in assembled.survivors]
    repaired.begin([best])
    if not assembled.interrupted:
        deadline = _until(began - trials.slowest, options)
        repaired.run(Limits(max(options.candidates // REPAIRED, 1), deadline), [*others, *ranked[1:]])
    unlike = one_shot if len(first) < len(one_shot) else []
    return _best(trials, [(trials.loss_of_plan(plan), plan) for plan in unlike], loss_repaired, assembled, repaired)


def _by_influence(setup: PlanSetup, plan: Plan) -> Plan:
    """The plan where no width is left to a search: blocks go by their influence, if any are to go."""
    if not setup.options.depth:
        return plan
    return plan_once(replace(setup, skipped=setup.least_influential()))


def _until(began: float, options: PruningOptions, share: float = 1.0) -> float | None:
    """When a share of the time limit is over; None: there is no limit."""
    return None if options.time_limit is None else began + share * options.time_limit


def _trials(setup: PlanSetup, space: Candidates, parts: Sequence[Fold]) -> _Trials:
    halves = [_half(setup, part) for part in parts]
    model, judge = setup.scores.model, halves[0].judge
    samples, pick = judge.affordable(THOROUGH_SAMPLES), setup.graph.trace.pick
    thorough = CandidateJudge(model, parts[0].judging, setup.options.loss_fn, samples, pick)
    return _Trials(model, space, halves, thorough)


def _half(setup: PlanSetup, fold: Fold) -> _Half:
    model, options = setup.scores.model, setup.options
    judge = CandidateJudge(model, fold.judging, options.loss_fn, pick=setup.graph.trace.pick)
    fitting = fold.fitting if options.loss_fn is None else list(InputsOnly(fold.fitting))
    statistics = Statistics(model, setup.graph.units, fitting)
    return _Half(judge, FittedLayers(model, _consumers(setup, statistics)), fitting)


def _best(
    trials: _Trials, unlike: list[tuple[float, Plan]], judged: JudgedLoss, assembled: Evolution, repaired: Evolution
) -> Plan:
    """The plan of the least loss after repair, and what was tried."""
    start = next(iter(judged.measured.values()))
    plans = ((judged.measured[one.key], trials.space.plan(one)) for _, one in repaired.survivors)
    first = next(((loss, plan) for loss, plan in plans if plan is not None), None)
    loss, plan = min([first, *unlike] if first is not None else unlike, key=lambda pair: pair[0])
    said: dict[str, Any] = {"candidates tried": assembled.tried, "candidates repaired": repaired.tried}
    said |= {"loss of the start": f"{start:.4g}", "loss": f"{loss:.4g}"}
    if trials.space.depth.units:
        said[REMOVABLE] = len(trials.space.depth.units)
    if assembled.interrupted or repaired.interrupted:
        said["interrupted"] = True
    return replace(plan, requested={**plan.requested, **said})


def _consumers(setup: PlanSetup, statistics: Statistics) -> tuple[ConsumerStatistics, ...]:
    """The weights that can be fitted; none where their second moments would take too much memory."""
    graph = setup.graph
    axes = [axis for axis in graph.units.axes if len(graph.trace.shapes[axis.parameter_axis.parameter]) > 1]
    sizes = {axis.parameter_axis: axis.size for axis in axes}
    if 8 * sum(size**2 for size in sizes.values()) > MOMENTS:
        return ()
    return statistics.consumers(products=True)


def _batches(graph: Analysis, options: PruningOptions) -> list[Any]:
    """The calibration batches, read once.

    Raises:
        InputError, PlanError: candidates cannot be judged.
    """
    asked = f"allocation={SEARCHED!r}"
    do = "pass calibration=, a list of batches as the model takes them, or another allocation="
    calibration = require_batches(options.calibration, asked, "judges candidates", do)
    require_one_process(options.calibration, asked, "judges candidates", "another allocation=")
    if options.weights is None:
        require_weights(graph.model, asked, "run", "load the weights first, or pass another allocation=")
    return [batch for _, batch in Batches(calibration)]
