"""Results as tables: one description that prints as text and shows itself as HTML in notebooks.

HTML has no scripts and takes its colors from the page, so that it is readable on light and on dark.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from graphprune.utils.repeated_names import Cells, merge_repeated

_MANY = 40
"""More rows than this are merged where only the number of a layer differs."""

_OPEN = 60
"""Longer tables are folded in a notebook until they are clicked."""

_STYLE = (
    "<style>"
    ".graphprune{font-size:.9em;line-height:1.35;color:inherit}"
    ".graphprune table{border-collapse:collapse;margin:.3em 0 .6em;color:inherit;background:transparent}"
    ".graphprune th,.graphprune td{padding:.15em .7em;border:0;border-bottom:1px solid rgba(128,128,128,.35);"
    "text-align:left;vertical-align:top;white-space:pre-wrap;color:inherit;background:transparent}"
    ".graphprune th{border-bottom-width:2px;font-weight:600}"
    ".graphprune .n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}"
    ".graphprune p{margin:.2em 0;white-space:pre-wrap}"
    ".graphprune summary{cursor:pointer;font-weight:600}"
    "</style>"
)


def human(number: float, unit: str = "") -> str:
    """A number in four significant places.

    >>> human(25557032), human(4089184256), human(312.0, "B")
    ('25.56 M', '4.089 G', '312 B')
    """
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.4g} {prefix}{unit}"
    return f"{number:.4g} {unit}".rstrip()


@dataclass(frozen=True)
class Table:
    """A table of text. The first column names things.

    Attributes:
        title: what stands above it; empty: nothing.
        columns: the headings.
        rows: as many cells each.
        numbers: the headings of the columns that are aligned to the right.
        many: with more rows than this, rows that differ only in the number of a layer are merged.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[Cells, ...]
    numbers: tuple[str, ...] = ()
    many: int = _MANY

    @property
    def lines(self) -> list[Cells]:
        """The rows that are shown."""
        return merge_repeated(self.rows) if len(self.rows) > self.many else list(self.rows)

    def __str__(self) -> str:
        lines = [self.columns, *self.lines] if any(self.columns) else self.lines
        widths = [max(map(len, column), default=0) for column in zip(*lines, strict=True)]
        indent = "  " if self.title else ""
        body = [indent + "  ".join(self._cells(line, widths)).rstrip() for line in lines]
        return "\n".join([*([self.title] if self.title else []), *body])

    def _cells(self, line: Cells, widths: Sequence[int]) -> list[str]:
        triples = zip(self.columns, line, widths, strict=True)
        return [cell.rjust(n) if column in self.numbers else cell.ljust(n) for column, cell, n in triples]

    def _repr_html_(self) -> str:
        return _in_page(self.to_html())

    def to_html(self) -> str:
        """The table as an element of HTML, foldable where it has a title."""
        lines = self.lines
        head = self._html_row(self.columns, "th") if any(self.columns) else ""
        table = f"<table>{head}{''.join(self._html_row(line, 'td') for line in lines)}</table>"
        if not self.title:
            return table
        is_open = " open" if len(lines) <= _OPEN else ""
        return f"<details{is_open}><summary>{escape(self.title)}</summary>{table}</details>"

    def _html_row(self, line: Cells, tag: str) -> str:
        classes = [' class="n"' if column in self.numbers else "" for column in self.columns]
        cells = [f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(classes, line, strict=True)]
        return f"<tr>{''.join(cells)}</tr>"


class Printed:
    """A result that is shown: in one line where it is part of something else, as tables where it is printed.

    ``print`` and notebooks show the same parts.
    """

    @abstractmethod
    def _summary(self) -> str:
        """The result in one line."""

    @abstractmethod
    def _parts(self) -> Iterable[str | Table | Printed]:
        """Lines and tables."""

    def __repr__(self) -> str:
        return f"<{self._summary()}>"

    def __str__(self) -> str:
        return "\n".join(map(str, self._parts()))

    def _repr_html_(self) -> str:
        return _in_page(self._inner_html())

    def _inner_html(self) -> str:
        return "".join(map(_html, self._parts()))


def _in_page(html: str) -> str:
    return f'<div class="graphprune">{_STYLE}{html}</div>'


def _html(part: str | Table | Printed) -> str:
    if isinstance(part, Table):
        return part.to_html()
    if isinstance(part, Printed):
        return part._inner_html()
    return "".join(f"<p>{escape(line)}</p>" for line in part.splitlines())
