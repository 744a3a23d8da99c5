"""Results as tables."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from torch import nn

from graphprune.graph.frozen import frozen_by_reason
from graphprune.utils.text_tables import add_row, human, make_table

# ---------------------------------------------------------------- tables


def size_table(model: nn.Module, graph: Any) -> Table:
    cost = graph.cost()
    table = make_table(type(model).__name__, "parameters", "MACs", "bytes", "groups", "frozen axes", left=0)
    sizes = (human(cost.params), human(cost.macs), human(cost.bytes, "B"))
    add_row(table, *sizes, len(graph.groups), len(graph.frozen))
    return table


def group_table(graph: Any, shown: int | None) -> Table:
    groups = graph.groups[:shown]
    hidden = len(graph.groups) - len(groups)
    table = make_table("What goes together", "group", "role", "units", "axes", "couplings", left=2)
    if hidden:
        table.caption = f"and {hidden} more (--all)"
    for group in groups:
        add_row(table, group.name, group.role, group.units, len(group.axes), len(group.couplings))
    return table


def frozen_table(graph: Any) -> Table:
    table = make_table("What cannot be pruned", "why", "axes", "for example", left=1)
    table.columns[-1].justify = "left"
    for why, items in frozen_by_reason(graph.frozen).items():
        where = items[0].reason.removeprefix(why).lstrip(", ").replace("at an unknown line", "")
        add_row(table, why, len(items), f"{items[0].axis} {where}".rstrip())
    return table


def before_after_table(model: nn.Module, plan: Any, before: Any, after: Any) -> Table:
    asked = ", ".join(f"{name} {value}" for name, value in plan.requested.items() if name not in ("importance", "seed"))
    title = f"{type(model).__name__}, {asked}"
    table = make_table(title, "", "before", "after", "removed")
    for label, name, unit in (("parameters", "params", ""), ("MACs", "macs", ""), ("bytes", "bytes", "B")):
        old, new = getattr(before, name), getattr(after, name)
        add_row(table, label, human(old, unit), human(new, unit), f"{1 - new / max(old, 1):.1%}")
    return table
