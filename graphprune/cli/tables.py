"""Results as tables."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text
from torch import nn

from graphprune.graph.frozen import frozen_by_reason

# ---------------------------------------------------------------- tables


def human(number: float, unit: str = "") -> str:
    """A number in four significant places.

    >>> human(25557032), human(4089184256), human(312.0, "B")
    ('25.56 M', '4.089 G', '312 B')
    """
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.4g} {prefix}{unit}"
    return f"{number:.4g} {unit}".rstrip()


def _table(title: str, *columns: str, left: int = 1) -> Table:
    """A table whose first ``left`` columns are text and the others numbers."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", overflow="fold")
    return table


def _row(table: Table, *cells: object) -> None:
    # As Text, because rich would read the brackets of a shape or an index as markup.
    table.add_row(*(Text(str(cell)) for cell in cells))


def size_table(model: nn.Module, graph: Any) -> Table:
    cost = graph.cost()
    table = _table(type(model).__name__, "parameters", "MACs", "bytes", "groups", "frozen axes", left=0)
    sizes = (human(cost.params), human(cost.macs), human(cost.bytes, "B"))
    _row(table, *sizes, len(graph.groups), len(graph.frozen))
    return table


def group_table(graph: Any, shown: int | None) -> Table:
    groups = graph.groups[:shown]
    hidden = len(graph.groups) - len(groups)
    table = _table("What goes together", "group", "role", "units", "axes", "couplings", left=2)
    if hidden:
        table.caption = f"and {hidden} more (--all)"
    for group in groups:
        _row(table, group.name, group.role, group.units, len(group.axes), len(group.couplings))
    return table


def frozen_table(graph: Any) -> Table:
    table = _table("What cannot be pruned", "why", "axes", "for example", left=1)
    table.columns[-1].justify = "left"
    for why, items in frozen_by_reason(graph.frozen).items():
        where = items[0].reason.removeprefix(why).lstrip(", ").replace("at an unknown line", "")
        _row(table, why, len(items), f"{items[0].axis} {where}".rstrip())
    return table


def before_after_table(model: nn.Module, plan: Any, before: Any, after: Any) -> Table:
    asked = ", ".join(f"{name} {value}" for name, value in plan.requested.items() if name not in ("importance", "seed"))
    title = f"{type(model).__name__}, {asked}"
    table = _table(title, "", "before", "after", "removed")
    for label, name, unit in (("parameters", "params", ""), ("MACs", "macs", ""), ("bytes", "bytes", "B")):
        old, new = getattr(before, name), getattr(after, name)
        _row(table, label, human(old, unit), human(new, unit), f"{1 - new / max(old, 1):.1%}")
    return table
