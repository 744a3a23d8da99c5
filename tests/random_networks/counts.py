"""Does each group lose its share?"""

from __future__ import annotations

from collections.abc import Mapping
from math import floor
from typing import Any

import numpy as np

from graphprune import ChannelGraph, Plan
from graphprune.graph.candidates import candidates


def wrong_counts(graph: ChannelGraph, plan: Plan, asked: Mapping[str, Any]) -> list[str]:
    """Groups that lost more or less than a ratio's share, though no size in the program ties them to others."""
    wrong = [f"{c.group} keeps nothing" for c in plan.choices if not 1 <= c.kept <= c.units]
    if not asked.keys() <= {"ratio", "importance", "seed"} or "ratio" not in asked:
        return wrong
    ratio = asked["ratio"]
    reached = np.array([int(ratio * g.units + 1e-9) > 0 and g.units > 1 for g in graph.units.groups], bool)
    free, constraints = candidates(graph, reached)
    tied = np.zeros(len(free), bool)
    for equation in constraints.equations:
        tied[equation.expression.units] = True
    for group, choice in zip(graph.groups, plan.choices, strict=True):
        independent = free[group.unit_ids].all() and not tied[group.unit_ids].any()
        share = max(1, group.units - floor(ratio * group.units + 1e-9))
        if independent and choice.kept != share and not _held_back(choice.why):
            wrong.append(f"{group.name} keeps {choice.kept} instead of {share} of {group.units}: {choice.why}")
    return wrong


def _held_back(why: str) -> bool:
    """Did the check of the slim model's run keep more, or an operation that needs so many (``topk``)?"""
    return "would" in why or "at its floor" in why
