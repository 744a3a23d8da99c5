"""Budgets, and what counts them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from numbers import Integral
from typing import Protocol

import numpy as np

from graphprune.errors import InputError
from graphprune.graph.budget_kinds import BUDGET_KINDS
from graphprune.graph.cost import CostModel
from graphprune.graph.living import Living
from graphprune.planning.latency import LatencyModel
from graphprune.utils.arrays import Mask, Scores
from graphprune.utils.checks import found_value, is_finite_number, number_and_unit, shown

BudgetSpec = int | float | str
"""A fraction of the dense cost (``0.5``), a number (``2_000_000``), or one with a unit (``"2G"``, ``"5ms"``)."""

UNIT_KIND = "units"
"""The kind of the budget that a ratio over all groups together is."""


@dataclass(frozen=True)
class Budget:
    """A ceiling on one kind of cost.

    Attributes:
        kind: a name in :data:`graphprune.graph.budget_kinds.BUDGET_KINDS`, or :data:`UNIT_KIND`.
        limit: in MACs, entries, bytes, seconds or units.
        text: as it was given.
    """

    kind: str
    limit: float
    text: str

    def shown(self, value: float) -> str:
        """An amount of this kind as people read it."""
        return BUDGET_KINDS[self.kind].shown(value) if self.kind in BUDGET_KINDS else f"{value:,.0f}"

    def shown_as_limit(self, value: float) -> str:
        """An amount of this kind as people read it, rounded up: as a limit it allows the amount itself."""
        steps = 1 if self.kind not in BUDGET_KINDS or BUDGET_KINDS[self.kind].count is not None else 1e5
        return self.shown(ceil(value * steps) / steps)


def parse_budgets(given: Mapping[str, BudgetSpec], dense: Callable[[str], float]) -> list[Budget]:
    """The budgets as numbers.

    Args:
        given: by kind.
        dense: what the model costs now, by kind; called for fractions only.

    Raises:
        InputError: a budget is neither a fraction in (0, 1] nor a positive number with a known unit.
    """
    return [Budget(kind, _limit(kind, spec, dense), f"{kind}={spec!r}") for kind, spec in given.items()]


def _limit(kind: str, spec: BudgetSpec, dense: Callable[[str], float]) -> float:
    if isinstance(spec, str):
        return _with_unit(kind, spec)
    if not is_finite_number(spec) or not spec > 0:
        raise InputError(
            f"{kind}: must be {_needed(kind)}, but is {shown(spec)}",
            found=found_value(spec),
            needed=_needed(kind),
            do=f"pass {kind}=0.5 for half of what it costs now",
        )
    if not isinstance(spec, Integral) and spec <= 1:
        return float(spec) * _cost(kind, spec, dense)
    if "" not in BUDGET_KINDS[kind].units:
        units = list(BUDGET_KINDS[kind].units)[:2]
        written = ", ".join(f"{spec}{unit}" for unit in units)
        raise InputError(
            f"{kind}: {spec!r} has no unit; write {written}, or a fraction of the dense {kind}",
            found=found_value(spec),
            needed=_needed(kind),
            do=f"write {kind}='{spec}{units[0]}'",
        )
    return float(spec)


def _cost(kind: str, share: float, dense: Callable[[str], float]) -> float:
    """What the model costs now, of which there is a share."""
    cost = dense(kind)
    if not cost:
        raise InputError(
            f"{kind}: {share!r} is a fraction of what the model costs now, which is 0 {kind}",
            found=f"{kind}={share!r}, and a model that costs 0 {kind}",
            needed="a model that costs some",
            do=f"leave out {kind}=, or correct the function that counts it if it is one of yours",
        )
    return cost


def _with_unit(kind: str, spec: str) -> float:
    number, unit = number_and_unit(spec)
    least = 0 if unit else 1  # without a unit "0.5" would be half of a multiply-add
    limit = number * BUDGET_KINDS[kind].units.get(unit, 0.0)
    if number <= least or not 0 < limit < math.inf:
        raise InputError(
            f"{kind}: must be {_needed(kind)}, but is {shown(spec)}",
            found=found_value(spec),
            needed=_needed(kind),
            do=f"pass {kind}=0.5 for half of what it costs now, or a number with a unit",
        )
    return limit


def _needed(kind: str) -> str:
    units = ", ".join(unit for unit in BUDGET_KINDS[kind].units if unit)
    return f"a fraction of what the model costs now (0.5), or a positive number with one of the units {units}"


# ---------------------------------------------------------------- what counts them


class BudgetCosts(Protocol):
    """Budgets, and what any choice of channels takes of them.

    Attributes:
        budgets: the ceilings, in the order of what the methods return.
    """

    budgets: list[Budget]

    def costs(self, living: Living) -> Scores:
        """What a choice costs. [budgets]"""

    def prices(self, alive: Mask, asked: Mask) -> Scores:
        """What each unit of the items that are asked for costs. [budgets, classes]"""


@dataclass(frozen=True)
class PredictedLatency:
    """A latency budget as the sum of kernels predicts it.

    Attributes:
        model: the sum of kernels.
        scale: the measured latency of the dense model, divided by the sum of its kernels.
        budget: a limit on the scaled sum, in seconds.
    """

    model: LatencyModel
    scale: float
    budget: Budget

    def seconds(self, alive: Mask) -> float:
        """The predicted latency of a choice."""
        return self.scale * self.model.seconds(alive)

    def prices(self, alive: Mask, asked: Mask) -> Scores:
        """The predicted latency of each unit of these items. [classes]"""
        return self.scale * self.model.prices(alive, asked)


class CountedBudgets:
    """Budgets on what is counted, and on latency."""

    def __init__(self, costs: CostModel, budgets: list[Budget], latency: PredictedLatency | None) -> None:
        self._costs = costs
        self._rows = [costs.number(b.kind) for b in budgets]
        self._latency = latency
        self.budgets = [*budgets, *([latency.budget] if latency else [])]

    def costs(self, living: Living) -> Scores:
        """What a choice costs. [budgets]"""
        counted = self._costs.vector(living)[self._rows]
        return counted if self._latency is None else np.append(counted, self._latency.seconds(living.alive))

    def prices(self, alive: Mask, asked: Mask) -> Scores:
        """What each unit of the items that are asked for costs. [budgets, classes]"""
        counted = self._costs.prices(alive, [self._costs.kinds[row] for row in self._rows], asked)
        return counted if self._latency is None else np.vstack([counted, self._latency.prices(alive, asked)])


class UnitBudget:
    """A ratio over all groups together: the number of units is the budget."""

    def __init__(self, free: Mask, kept: int, text: str) -> None:
        self._units = np.flatnonzero(free)
        self._one = free[None].astype(float)
        self.budgets = [Budget(UNIT_KIND, kept, text)]

    def costs(self, living: Living) -> Scores:
        """How many units a choice keeps. [1]"""
        return np.array([living.alive[self._units].sum()], float)

    def prices(self, alive: Mask, asked: Mask) -> Scores:
        """1 for every unit that may go. [1, classes]"""
        return self._one


def budget_costs(
    dense: CostModel, costs: CostModel, given: Mapping[str, BudgetSpec], latency: PredictedLatency | None
) -> BudgetCosts:
    """The budgets that are given, with what counts them.

    Args:
        dense: counts the dense model, whose fractions are meant.
        costs: counts choices; it may lack blocks.
        given: by kind; a latency comes measured, as ``latency``.
        latency: see :class:`PredictedLatency`.
    """
    whole = dense.dense
    counted = {kind: spec for kind, spec in given.items() if BUDGET_KINDS[kind].count is not None}
    return CountedBudgets(costs, parse_budgets(counted, lambda kind: float(whole[kind])), latency)
