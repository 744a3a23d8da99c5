"""Measure sensitivity: prune one group at a time, physically, and ask a function of the user's for the loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import nn

from graphprune.errors import InputError
from graphprune.limits import Override
from graphprune.planner import make_plan
from graphprune.request import Options, Request
from graphprune.sensitivity import Sensitivity

if TYPE_CHECKING:
    from graphprune.graph import ChannelGraph

Evaluate = Callable[[nn.Module], float]


def measure_sensitivity(
    graph: ChannelGraph, evaluate: Evaluate, ratios: Sequence[float], options: Options
) -> Sensitivity:
    """See :meth:`graphprune.ChannelGraph.sensitivity`."""
    if not ratios or not all(0 < r < 1 for r in ratios):
        raise InputError(f"ratios: must be fractions between 0 and 1, but are {tuple(ratios)!r}")
    ratios = tuple(sorted(ratios))
    losses: dict[str, tuple[tuple[float, float], ...]] = {}
    for choice in graph.plan(max(ratios), **options).choices:
        if choice.removed:
            points = [_one(graph, choice.group, r, evaluate, options) for r in ratios]
            losses[choice.group] = tuple(points)
    return Sensitivity(float(evaluate(graph.model)), ratios, losses)


def _one(graph: ChannelGraph, group: str, ratio: float, evaluate: Evaluate, options: Options) -> tuple[float, float]:
    """The fraction of a group that goes, and the loss without it. What sizes tie to it goes too."""
    overrides = {(lambda g: g.name == group): Override(ratio=ratio)}
    asked: Options = {**options, "overrides": overrides}
    plan = make_plan(graph, Request.of(None, asked))
    (choice,) = (c for c in plan.choices if c.group == group)
    return len(choice.removed) / choice.units, float(evaluate(plan.apply(graph.model)))
