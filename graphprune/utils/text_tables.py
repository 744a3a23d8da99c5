"""Tables of text and numbers, and numbers as people read them."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text


def human(number: float, unit: str = "") -> str:
    """A number in four significant places.

    >>> human(25557032), human(4089184256), human(312.0, "B")
    ('25.56 M', '4.089 G', '312 B')
    """
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.4g} {prefix}{unit}"
    return f"{number:.4g} {unit}".rstrip()


def make_table(title: str, *columns: str, left: int = 1) -> Table:
    """A table whose first ``left`` columns are text and the others numbers."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", overflow="fold")
    return table


def add_row(table: Table, *cells: object) -> None:
    # As Text, because rich would read the brackets of a shape or an index as markup.
    table.add_row(*(Text(str(cell)) for cell in cells))
