"""What a plan's slim model costs."""

from __future__ import annotations

from graphprune.graph.analysis import Analysis
from graphprune.graph.cost import Cost
from graphprune.pruning.plan import Plan


def plan_cost(graph: Analysis, plan: Plan) -> Cost:
    """The costs of the model that a plan makes; those of merged heads were counted when the plan was made.

    Raises:
        PlanError: the plan is for another model.
    """
    alive = graph.alive(plan.removed)
    if plan.merged:
        return Cost({kind: after for kind, (_, after) in plan.costs.items()})
    costs = graph.costs_without(plan.skipped) if plan.skipped else graph.costs
    return costs.at(alive)
