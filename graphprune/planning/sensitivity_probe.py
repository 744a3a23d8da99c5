"""Measure sensitivity: prune one group at a time, physically, and ask a function of the user's for the loss."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from graphprune.errors import InputError, UnmeasuredGroupsWarning
from graphprune.graph.analysis import Analysis
from graphprune.graph.budget_kinds import BUDGET_KINDS
from graphprune.planning.keyword_arguments import PlanArguments
from graphprune.planning.limits import Override
from graphprune.planning.options import PruningOptions
from graphprune.planning.planner import make_plan
from graphprune.planning.sensitivity import Sensitivity
from graphprune.pruning.plan import Choice
from graphprune.tracing.run_state import evaluating_unchanged
from graphprune.utils.callers import frames_of_this_package
from graphprune.utils.checks import check_callable, check_type, is_number, loss_number, shown

Evaluate = Callable[[nn.Module], float]


def measure_sensitivity(
    graph: Analysis, evaluate: Evaluate, ratios: Sequence[float], options: PlanArguments
) -> Sensitivity:
    """See :meth:`graphprune.ChannelGraph.sensitivity`."""
    check_callable("evaluate", evaluate, "a function (model) -> loss", takes="model")
    given: Any = ratios.tolist() if isinstance(ratios, Tensor) else ratios
    check_type("ratios", given, Iterable, "a tuple of fractions between 0 and 1")
    ratios = tuple(given)
    if not ratios or not all(is_number(r) and 0 < r < 1 for r in ratios):
        raise InputError(
            f"ratios: must be fractions between 0 and 1, but are {shown(ratios)}",
            found=shown(ratios),
            needed="fractions above 0 and below 1, one at least",
            do="pass ratios=(0.25, 0.5, 0.75)",
        )
    ratios = tuple(sorted(ratios))
    _check_no_budgets(options)
    losses: dict[str, tuple[tuple[float, float], ...]] = {}
    choices = make_plan(graph, PruningOptions.of(max(ratios), options)).choices
    _warn_of_left_out(graph, choices, ratios, options)
    for choice in choices:
        if choice.removed:
            points = [_one(graph, choice.group, r, evaluate, options) for r in ratios]
            losses[choice.group] = tuple(points)
    dense = _loss(evaluate, graph.model)
    if math.isnan(dense):
        raise InputError(
            "evaluate: the dense model's loss is nan",
            found="a loss of nan",
            needed="a number, with which the losses of slim models can be compared",
            do="look for NaN in the weights and the data, and for a division by zero in the loss",
        )
    return Sensitivity(dense, ratios, losses)


def _warn_of_left_out(
    graph: Analysis, choices: Sequence[Choice], ratios: Sequence[float], options: PlanArguments
) -> None:
    """Warn of groups of which these ratios remove nothing, and a larger one something."""
    kept = {choice.group: choice for choice in choices if not choice.removed}
    if not kept:
        return
    unscored: PlanArguments = {**options, "importance": "random", "calibration": None, "loss_fn": None}
    largest = make_plan(graph, PruningOptions.of(_NEARLY_ALL, unscored)).choices
    held = [kept[choice.group] for choice in largest if choice.removed and choice.group in kept]
    if held:
        lines = [f"{choice.group} keeps all of its {choice.units} units: {choice.why}" for choice in held]
        said = f"ratios: {len(held)} of the groups are not measured at {shown(ratios)}; ask for a larger ratio"
        warnings.warn("\n  ".join([said, *lines]), UnmeasuredGroupsWarning, stacklevel=frames_of_this_package())


_NEARLY_ALL = 1 - 1e-6
"""A ratio that leaves one unit of any group."""


def _check_no_budgets(options: PlanArguments) -> None:
    """Raise an InputError if a budget is given: how much goes is what ratios= says."""
    given = [name for name, value in options.items() if name in (*BUDGET_KINDS, "budgets") and value is not None]
    if given:
        raise InputError(
            f"{given[0]}: is a budget, and sensitivity takes ratios= of each group alone",
            found=", ".join(f"{name}={shown(options[name])}" for name in given),  # type: ignore[literal-required]
            needed="ratios= and how channels are scored: importance=, calibration= and the like",
            do=f"leave out {given[0]}=, and pass it to graph.plan with allocation=, what graph.sensitivity returns",
        )


def _loss(evaluate: Evaluate, model: nn.Module) -> float:
    """The loss in evaluation mode; what running changes is put back."""
    with evaluating_unchanged(model):
        return loss_number(evaluate(model))


def _one(graph: Analysis, group: str, ratio: float, evaluate: Evaluate, options: PlanArguments) -> tuple[float, float]:
    """The fraction of a group that goes, and the loss without it. What sizes tie to it goes too.

    Of the overrides that are given, ratios do not hold: they are of other groups, or another one is measured.
    """
    given = {key: replace(one, ratio=None) for key, one in options.get("overrides", {}).items()}
    own: dict[Any, Override] = {(lambda g: g.name == group): Override(ratio=ratio)}
    asked: PlanArguments = {**options, "overrides": given | own}
    plan = make_plan(graph, PruningOptions.of(None, asked))
    (choice,) = (c for c in plan.choices if c.group == group)
    return len(choice.removed) / choice.units, _loss(evaluate, plan.apply(graph.model))
