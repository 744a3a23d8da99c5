"""What a search may spend, and on what: the budgets of a request beside the functions that count them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphprune.graph.cost import COSTS, CostModel
from graphprune.planning.budgets import Budget, parse_budgets
from graphprune.planning.latency import LatencyModel
from graphprune.planning.options import Request
from graphprune.utils.arrays import Mask, Scores


@dataclass(frozen=True)
class PredictedLatency:
    """A latency budget as the sum of kernels sees it.

    Attributes:
        model: the sum of kernels.
        scale: what the dense model was measured to take, in parts of the sum of its kernels.
        budget: a limit on the scaled sum, in seconds.
    """

    model: LatencyModel
    scale: float
    budget: Budget

    def seconds(self, alive: Mask) -> float:
        """What a choice is predicted to take."""
        return self.scale * self.model.seconds(alive)

    def prices(self, alive: Mask) -> Scores:
        """What each unit is predicted to take. [classes]"""
        return self.scale * self.model.prices(alive)


class BudgetCosts:
    """Budgets on MACs, parameters, bytes and latency, in one order throughout."""

    def __init__(self, costs: CostModel, budgets: list[Budget], timing: PredictedLatency | None) -> None:
        self._costs = costs
        self._rows = [COSTS.index(b.kind) for b in budgets]
        self._timing = timing
        self.budgets = [*budgets, *([timing.budget] if timing else [])]

    def costs(self, alive: Mask) -> Scores:
        """What a choice costs. [budgets]"""
        counted = self._costs.vector(alive)[self._rows]
        return counted if self._timing is None else np.append(counted, self._timing.seconds(alive))

    def prices(self, alive: Mask) -> Scores:
        """What each unit costs. [budgets, classes]"""
        counted = self._costs.prices(alive)[self._rows]
        return counted if self._timing is None else np.vstack([counted, self._timing.prices(alive)])


class UnitBudget:
    """A ratio over all groups together: the number of units is the budget."""

    def __init__(self, free: Mask, kept: int, text: str) -> None:
        self._units = np.flatnonzero(free)
        self._one = free[None].astype(float)
        self.budgets = [Budget("units", kept, text)]

    def costs(self, alive: Mask) -> Scores:
        return np.array([alive[self._units].sum()], float)

    def prices(self, alive: Mask) -> Scores:
        return self._one


def budget_costs(
    dense_model: CostModel, model: CostModel, request: Request, timing: PredictedLatency | None
) -> BudgetCosts:
    """The budgets that a request asks for; that of latency comes measured, as ``timing``.

    Fractions are those of the dense model; what is spent is counted on ``model``, which may lack blocks.
    """
    dense = dict(zip(COSTS, dense_model.vector(dense_model.everything).tolist(), strict=True))
    counted = {kind: ask for kind, ask in request.budgets.items() if kind in COSTS}
    return BudgetCosts(model, parse_budgets(counted, dense.__getitem__), timing)
