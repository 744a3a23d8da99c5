"""Results as tables, and how a terminal shows them."""

from __future__ import annotations

from typing import Any

import rich.table
from rich.text import Text
from torch import nn

from graphprune.graph.frozen import frozen_by_reason
from graphprune.pruning.plan import TRIED
from graphprune.utils.tables import Table, human

# ---------------------------------------------------------------- tables


def terminal_table(table: Table) -> rich.table.Table:
    """A table as rich draws it: cells that are too long for the terminal are folded."""
    drawn = rich.table.Table(title=table.title.rstrip(":"), title_justify="left", title_style="bold")
    for column in table.columns:
        drawn.add_column(column, justify="right" if column in table.numbers else "left", overflow="fold")
    for line in table.lines:
        # As Text, because rich would read the brackets of a shape or an index as markup.
        drawn.add_row(*map(Text, line))
    return drawn


def size_table(model: nn.Module, graph: Any) -> Table:
    """What a model costs, and how much of it is in groups."""
    cost = graph.cost()
    columns = ("parameters", "MACs", "bytes", "groups", "frozen axes")
    sizes = human(cost.params), human(cost.macs), human(cost.bytes, "B")
    return Table(type(model).__name__, columns, ((*sizes, str(len(graph.groups)), str(len(graph.frozen))),), columns)


def reason_table(graph: Any) -> Table:
    """What cannot be pruned, by reason."""
    rows = []
    for why, items in frozen_by_reason(graph.frozen).items():
        rows.append((why, str(len(items)), f"{items[0].axis} {items[0].why.where.lstrip(', ')}".rstrip()))
    return Table("What cannot be pruned", ("why", "axes", "for example"), tuple(rows), numbers=("axes",))


_UNTITLED = ("importance", "seed", TRIED)
"""What is requested of a plan and does not stand in the title of a table."""


def before_after_table(model: nn.Module, plan: Any, before: Any, after: Any) -> Table:
    """What a model costs before and after a plan."""
    asked = ", ".join(f"{name} {value}" for name, value in plan.requested.items() if name not in _UNTITLED)
    rows = []
    for label, name, unit in (("parameters", "params", ""), ("MACs", "macs", ""), ("bytes", "bytes", "B")):
        old, new = getattr(before, name), getattr(after, name)
        rows.append((label, human(old, unit), human(new, unit), f"{1 - new / max(old, 1):.1%}"))
    columns = ("", "before", "after", "removed")
    return Table(f"{type(model).__name__}, {asked}", columns, tuple(rows), numbers=columns[1:])
