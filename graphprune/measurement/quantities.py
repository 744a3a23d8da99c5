"""Measured quantities side by side, as a table, also of Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphprune.utils.tables import Table

UNKNOWN = "-"


@dataclass(frozen=True)
class Quantity:
    """One measured number.

    Attributes:
        label: what it is; the same for every model.
        value: the number.
        text: the number as people read it.
        difference: how the difference to another is written (of scores and shares); empty: the ratio is told.
    """

    label: str
    value: float
    text: str
    difference: str = ""

    def against(self, first: Quantity) -> str:
        """How it compares with the same quantity of another model."""
        if self.difference:
            return format(self.value - first.value, self.difference)
        return f"{self.value / first.value:.3g}x" if first.value else UNKNOWN


@dataclass(frozen=True)
class QuantityTable:
    """Quantities of several models side by side, with what the others have in parts of the first.

    Attributes:
        columns: by the name of each model, its quantities.
        notes: what is not known, and why; a line each.
    """

    title: str
    columns: Mapping[str, Sequence[Quantity]]
    notes: Sequence[str]

    def table(self) -> Table:
        """A table that prints."""
        head, *rows = self.cells()
        return Table(self.title, tuple(head), tuple(map(tuple, rows)), numbers=tuple(head[1:]))

    def markdown(self) -> str:
        """For a document."""
        head, *rows = self.cells()
        lines = [f"**{_escaped(self.title)}**", "", _line(head), _line(["---", *["---:"] * (len(head) - 1)])]
        lines += map(_line, rows)
        lines += ["", *(f"- {note}" for note in self.notes)] if self.notes else []
        return "\n".join(lines) + "\n"

    def cells(self) -> list[list[str]]:
        """The names of the columns, then a row for each quantity."""
        names = list(self.columns)
        found = {name: {q.label: q for q in quantities} for name, quantities in self.columns.items()}
        labels = _in_order([list(own) for own in found.values()])
        head = ["", *names, *(f"{name} / {names[0]}" for name in names[1:])]
        return [head, *(_row(label, [own.get(label) for own in found.values()]) for label in labels)]


def _in_order(lists: Sequence[Sequence[str]]) -> list[str]:
    """The labels of all lists, each once; what only a later one has comes after what stands before it there."""
    found: list[str] = []
    for labels in lists:
        place = 0
        for label in labels:
            if label not in found:
                found.insert(place, label)
            place = found.index(label) + 1
    return found


def _row(label: str, quantities: Sequence[Quantity | None]) -> list[str]:
    first = quantities[0]
    texts = [UNKNOWN if q is None else q.text for q in quantities]
    ratios = [UNKNOWN if q is None or first is None else q.against(first) for q in quantities[1:]]
    return [label, *texts, *ratios]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
