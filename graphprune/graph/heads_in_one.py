"""Heads that are one unit, because they meet a tensor whose entries all go together: none of them can go alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from graphprune.graph.analysis import Analysis
from graphprune.graph.candidates import only_ones
from graphprune.graph.constant_operands import constant_in_one
from graphprune.graph.groups import WhyFrozen
from graphprune.utils.arrays import Ids
from graphprune.utils.weak_caches import once_for_each


def why_one_stays(graph: Analysis, unit: int) -> str:
    """Why a unit that is alone in its group stays."""
    known = heads_in_one(graph).get(unit)
    return f"one must stay: {known}" if known else "one must stay"


@once_for_each
def heads_in_one(graph: Analysis) -> Mapping[int, WhyFrozen]:
    """Why several heads are one unit, by this unit."""
    alone = only_ones(graph)
    return _joined(graph, set(alone)) if alone else {}


def _joined(graph: Analysis, alone: set[int]) -> dict[int, WhyFrozen]:
    """What first made one of several heads, by the unit that they are."""
    found: dict[int, WhyFrozen] = {}
    for *pair, number in graph.labeling.labels.facts.unions:
        sides = [_labels_by_unit(graph, ids, alone - found.keys()) for ids in pair]
        for unit in sides[0].keys() & sides[1].keys():
            few, many = sorted((side[unit] for side in sides), key=len)
            if len(few) < len(many):
                found[unit] = _reason(graph, number, few, len(many))
    return found


def _labels_by_unit(graph: Analysis, ids: Ids, units: set[int]) -> dict[int, Ids]:
    """The different labels among these that are of each unit."""
    if not units:
        return {}
    labels = np.unique(ids)
    classes = graph.solution.of[labels]
    return {unit: labels[classes == unit] for unit in units if (classes == unit).any()}


def _reason(graph: Analysis, number: int, labels: Ids, count: int) -> WhyFrozen:
    node = graph.labeling.nodes[number]
    met = constant_in_one(graph.labeling, node, labels) or "what goes as a whole"
    return WhyFrozen.at(f"all {count} go together, since they meet {met}", node.meta.get("line"))
