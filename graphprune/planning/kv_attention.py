"""Attention as labels show it: heads, and which rows of parameters are their keys and values.

Rows that belong to a query head of a group have a repeat among their labels, and those of keys and values have none.
Where every query head has keys of its own, labels do not tell them apart: there the program itself shows which
parameters can have fewer heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from graphprune.graph.analysis import Analysis
from graphprune.graph.groups import Group
from graphprune.rules.labels import ParameterAxis
from graphprune.utils.arrays import Ids

HeadRows = Mapping[int, Ids]
"""By the number of a head, the entries of a parameter axis that it has, ascending."""


@dataclass(frozen=True, eq=False)
class Attention:
    """The key/value heads of one attention, and the entries that need them.

    Attributes:
        group: of which each unit is a head.
        rows: by parameter axis, the entries of keys and values by head; where queries have heads of their own, all.
        queries: by parameter axis, the entries of query heads, by the head whose keys they read; empty where labels do
            not tell them from keys.
        shared: how many query heads share a key/value head.
    """

    group: Group
    rows: Mapping[ParameterAxis, HeadRows]
    queries: Mapping[ParameterAxis, HeadRows]
    shared: int = 1

    @property
    def heads(self) -> int:
        """How many key/value heads there are."""
        return self.group.units

    @property
    def is_grouped(self) -> bool:
        """Do several query heads share one?"""
        return bool(self.queries)

    @cached_property
    def everything(self) -> Mapping[ParameterAxis, HeadRows]:
        """By parameter axis, the entries of a head whatever they are."""
        axes = dict.fromkeys((*self.rows, *self.queries))
        return {axis: _joined(self.rows.get(axis, {}), self.queries.get(axis, {}), self.heads) for axis in axes}


def _joined(one: HeadRows, other: HeadRows, heads: int) -> HeadRows:
    none = np.zeros(0, np.int64)
    return {head: np.union1d(one.get(head, none), other.get(head, none)) for head in range(heads)}


def attentions_of(graph: Analysis) -> list[Attention]:
    """All attentions of which heads can go."""
    rows = [group for group in graph.units.groups if group.role in ("heads", "kv_groups")]
    rows = [group for group in rows if graph.units.kind_of(group.unit_ids) == "row" and group.units > 1]
    return [_attention(graph, group) for group in rows]


def _attention(graph: Analysis, group: Group) -> Attention:
    found = graph.units.occurrences
    number = np.full(graph.solution.count, -1, np.int64)
    number[group.unit_ids] = np.arange(group.units)
    repeat = graph.solution.repeated_rows[found.unit]
    rows: dict[ParameterAxis, HeadRows] = {}
    queries: dict[ParameterAxis, HeadRows] = {}
    shared = 1
    for place, axis in enumerate(graph.units.axes):
        if axis.parameter_axis in group.axes:
            here = found.axis == place
            mine = here & (number[found.unit] >= 0)
            head, index = number[found.unit[mine]], found.index[mine]
            asks = np.isin(index, found.index[here & repeat])
            shared = max(shared, len(np.unique(found.unit[here & repeat])))
            for table, chosen in ((queries, asks), (rows, ~asks)):
                if chosen.any():
                    table[axis.parameter_axis] = _by_head(head[chosen], index[chosen])
    return Attention(group, rows, queries, shared)


def _by_head(head: Ids, index: Ids) -> HeadRows:
    return {int(one): np.unique(index[head == one]) for one in np.unique(head)}


def entries(rows: HeadRows) -> Ids:
    """All entries of all heads, ascending."""
    return np.unique(np.concatenate([np.zeros(0, np.int64), *rows.values()]))
