"""What a graph prints: its groups, and what is frozen, as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from graphprune.graph.analysis import Analysis
from graphprune.graph.groups import Frozen, Group
from graphprune.graph.roles import ROLES
from graphprune.utils.tables import Table


def count_roles(groups: Sequence[Group]) -> str:
    """How many groups there are of each role, ``"33 mlp, 4 width"``."""
    counts = Counter(group.role for group in groups)
    return ", ".join(f"{counts[role]} {role}" for role in ROLES if counts[role])


def group_table(graph: Analysis) -> Table:
    """All groups, with the shares of multiply-adds and of parameters in which each takes part."""
    shares = graph.costs.shares(graph.units).T.tolist()
    rows = tuple(
        (g.name, g.role, str(g.units), str(len(g.axes)), f"{macs:.1%}", f"{params:.1%}")
        for g, (macs, params) in zip(graph.groups, shares, strict=True)
    )
    columns = ("group", "role", "units", "axes", "MACs", "params")
    return Table("What goes together:", columns, rows, numbers=columns[2:])


def frozen_table(frozen: Iterable[Frozen]) -> Table:
    """What cannot be removed, and why."""
    rows = tuple((one.axis, f"{one.count} of {one.size}", one.reason) for one in frozen)
    return Table("What cannot be pruned:", ("axis", "entries", "why"), rows, numbers=("entries",), many=12)
