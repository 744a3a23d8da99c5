"""Names that differ only in one number (of repeated layers), written as one name with a range of numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBER = re.compile(r"\d+")
_PATH = re.compile(r"[^\[:#]*")
"""The path of a module at the beginning of a name; what follows is an index, a role or a counter."""

Cells = tuple[str, ...]


def merge_repeated(rows: Sequence[Cells]) -> list[Cells]:
    """Rows whose first cells differ only in one number, and whose other cells are equal, as one row.

    It is the same number for all of them, counted from the left: the one that leaves the fewest rows.

    >>> merge_repeated([("layers.0.fc", "64"), ("layers.1.fc", "64"), ("layers.2.fc", "32")])
    [('layers.0-1.fc', '64'), ('layers.2.fc', '32')]
    """
    most = max((len(_NUMBER.findall(_path(row[0]))) for row in rows), default=0)
    candidates = [_merged_at(rows, position) for position in range(most)]
    return min([list(rows), *candidates], key=len)


def merge_names(names: Sequence[str]) -> list[str]:
    """Names that differ only in one number as one, as in :func:`merge_repeated`."""
    return [row[0] for row in merge_repeated([(name,) for name in names])]


def _path(name: str) -> str:
    found = _PATH.match(name)
    return found[0] if found else ""


def _merged_at(rows: Sequence[Cells], position: int) -> list[Cells]:
    """The rows with those merged that differ in the number at a position alone."""
    found: dict[tuple[str, str, Cells], list[int]] = {}
    for name, *rest in rows:
        before, number, after = _cut(name, position)
        found.setdefault((before, after, tuple(rest)), []).extend([number] if number is not None else [])
    return [(f"{before}{_ranges(numbers)}{after}", *rest) for (before, after, rest), numbers in found.items()]


def _cut(name: str, position: int) -> tuple[str, int | None, str]:
    """A name before and after the number at a position of its path; a name without it is whole."""
    numbers = list(_NUMBER.finditer(_path(name)))
    if position >= len(numbers) or numbers[position][0] != str(int(numbers[position][0])):
        return name, None, ""
    at = numbers[position]
    return name[: at.start()], int(at[0]), name[at.end() :]


def _ranges(numbers: Sequence[int]) -> str:
    """``"0-3,5"`` for 0, 1, 2, 3 and 5."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
