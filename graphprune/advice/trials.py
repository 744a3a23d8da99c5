"""Measurements on data: how sensitive groups are, how much blocks do, and which of several plans is best here."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from graphprune.advice.facts import NO_TIME, BlockFacts, GroupFacts, Trial
from graphprune.advice.judging import Judge
from graphprune.advice.time_limit import TimeLimit
from graphprune.api import ChannelGraph, apply_and_repair
from graphprune.calibration.batches import InputsOnly
from graphprune.calibration.statistics import Statistics
from graphprune.errors import GraphpruneError, InputError, NothingRemovedWarning, UnreachedWarning
from graphprune.importance.block_influence import influence
from graphprune.planning.limits import Override

CLEAR = 0.2
"""An answer is taken over the first one where the loss rises less by this fraction: few samples judge, and mislead."""
PROBED = 0.5
"""The fraction of a group that goes when its sensitivity is measured."""


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of plans that are only tried."""
    with warnings.catch_warnings():
        for kind in (NothingRemovedWarning, UnreachedWarning):
            warnings.simplefilter("ignore", kind)
        yield


# ---------------------------------------------------------------- one group, one block


def measure_rises(
    graph: ChannelGraph, groups: Sequence[GroupFacts], judge: Judge, dense: float, limit: TimeLimit
) -> tuple[tuple[GroupFacts, ...], tuple[str, ...]]:
    """By how much the loss rises with half of each group gone, the largest groups first; and what was not measured."""
    found = {group.name: group for group in groups}
    for done, group in enumerate(sorted(groups, key=lambda g: -g.macs)):
        if limit.over:
            return tuple(found.values()), (f"the sensitivity of {len(groups) - done} groups: {NO_TIME}",)
        rise = _rise(graph, group, judge, dense)
        if rise is not None:
            found[group.name] = replace(group, rise=rise)
    return tuple(found.values()), ()


def _rise(graph: ChannelGraph, group: GroupFacts, judge: Judge, dense: float) -> float | None:
    """By how much the loss rises with half of a group gone; None: it cannot go alone."""
    asked = {(lambda g: g.name == group.name): Override(ratio=PROBED)}
    with quiet():
        try:
            plan = graph.plan(overrides=asked)
        except InputError:
            raise
        except GraphpruneError:
            return None
        return _finite(judge.loss(plan.apply(graph.model))) - dense


def measure_influence(graph: ChannelGraph, blocks: Sequence[BlockFacts], judge: Judge) -> tuple[BlockFacts, ...]:
    """The blocks with their influence on what goes through them."""
    batches = judge.calibration if judge.loss_fn is None else InputsOnly(judge.calibration)
    values = influence(graph.model, graph.blocks, Statistics(graph.model, graph.units, batches))
    return tuple(replace(block, influence=value) for block, value in zip(blocks, values, strict=True))


# ---------------------------------------------------------------- plans


@dataclass(eq=False)
class Trials:
    """Plans that are tried one after the other, each from the best so far.

    Attributes:
        graph: what is pruned.
        judge: what judges.
        base: the arguments of every plan: budgets, and what a runtime needs.
        dense: the loss of the dense model.
        limit: when to stop.
        done: the trials.
    """

    graph: ChannelGraph
    judge: Judge
    base: Mapping[str, Any]
    dense: float
    limit: TimeLimit
    done: list[Trial] = field(default_factory=list)

    def run(self, questions: Sequence[tuple[str, Mapping[str, Mapping[str, Any]]]]) -> tuple[str, ...]:
        """Try the answers to each question; what is not tried for want of time.

        Args:
            questions: by topic, arguments by what they are called; the first are those that are kept unless others are
                clearly better.
        """
        settled: dict[str, Any] = {}
        best: float | None = None
        for number, (topic, answers) in enumerate(questions):
            first, *others = answers.items()
            best = self._first(topic, first, settled, best)
            for choice, arguments in others:
                if self.limit.over:
                    left = ", ".join(name for name, _ in questions[number:])
                    return (f"other answers to: {left}; {NO_TIME}",)
                self._try(topic, choice, arguments, settled)
            chosen = best_trial(self.done, topic, self.dense)
            if chosen is not None and chosen.loss is not None:
                settled |= chosen.arguments
                best = chosen.loss
        return ()

    def _first(
        self, topic: str, first: tuple[str, Mapping[str, Any]], settled: Mapping[str, Any], best: float | None
    ) -> float | None:
        """The loss of the first answer, which is the best so far, if there is one."""
        if best is None:
            return self._try(topic, *first, settled).loss
        self.done.append(Trial(topic, first[0], first[1], best))
        return best

    def _try(self, topic: str, choice: str, arguments: Mapping[str, Any], settled: Mapping[str, Any]) -> Trial:
        trial = self._tried(topic, choice, arguments, {**self.base, **settled, **arguments})
        self.done.append(trial)
        return trial

    def _tried(self, topic: str, choice: str, own: Mapping[str, Any], arguments: Mapping[str, Any]) -> Trial:
        model, judge = self.graph.model, self.judge
        with quiet():
            try:
                plan = self.graph.plan(**arguments, calibration=judge.calibration, loss_fn=judge.loss_fn)
                slim: nn.Module = apply_and_repair(model, plan, judge.calibration, judge.loss_fn)
            except GraphpruneError as error:
                return Trial(topic, choice, own, None, error.what)
            return Trial(topic, choice, own, _finite(judge.loss(slim)))


def _finite(loss: float) -> float:
    """A loss that is no number is the worst of all."""
    return loss if math.isfinite(loss) else math.inf


def best_trial(trials: Sequence[Trial], topic: str, dense: float) -> Trial | None:
    """Of the trials for a topic the first one, or the best if that is clearly better; None: there are none."""
    mine = [t for t in trials if t.topic == topic]
    worked = [t for t in mine if t.loss is not None]
    if not worked:
        return None
    best = min(worked, key=lambda t: t.loss or 0.0)
    first = mine[0]
    if first.loss is None:
        return best
    clearly = (best.loss or 0.0) - dense < (first.loss - dense) * (1 - CLEAR)
    return best if clearly and best.loss is not None and best.loss < first.loss else first
