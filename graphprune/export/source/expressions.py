"""Expressions of the file that is written, as data: compared, unified, and laid out within a line length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

LINE_LENGTH = 120

_INDENT = 4
_REPEATED = 3
"""So many equal entries in a row are written once, as a comprehension."""


@dataclass(frozen=True)
class Code:
    """A literal, a name or another piece of code that is written as it is."""

    text: str


@dataclass(frozen=True)
class Argument:
    """An argument of a call.

    Attributes:
        name: of the parameter; empty for one of many (``nn.Sequential``).
        default: what the callee takes where the argument is left out; None: it must be given.
        keyword: written with its name.
    """

    name: str
    value: Expression
    default: Expression | None = None
    keyword: bool = False


@dataclass(frozen=True)
class Invocation:
    """A call of a class or function."""

    callee: str
    arguments: tuple[Argument, ...] = ()


@dataclass(frozen=True)
class Display:
    """A list, tuple, set or dictionary; ``keys`` are the texts of a dictionary's keys."""

    brackets: str
    items: tuple[Expression, ...]
    keys: tuple[str, ...] = ()


Expression: TypeAlias = "Code | Invocation | Display"

NO_VALUE = Code("None")

WrittenEntry: TypeAlias = "tuple[str, Expression, int]"
"""What stands before the value, the value, and how often it is repeated."""


def many(values: Sequence[Expression]) -> tuple[Argument, ...]:
    """Positional arguments without names."""
    return tuple(Argument("", value) for value in values)


def given(call: Invocation) -> list[Argument]:
    """The arguments that are written: those that are not what the callee takes anyway."""
    return [argument for argument in call.arguments if argument.value != argument.default]


def render(expression: Expression, indent: int, before: int = 0, after: int = 0) -> str:
    """The text of an expression; what does not fit a line has one entry a line.

    Args:
        expression: what is written.
        indent: columns of the statement that it is a part of.
        before, after: columns that the line has before the expression, indent not counted, and after it.
    """
    flat = flat_text(expression)
    if isinstance(expression, Code) or indent + before + len(flat) + after <= LINE_LENGTH:
        return flat
    opening, entries, closing = _parts(expression)
    if not entries:
        return flat
    inner = indent + _INDENT
    joined = flat[len(opening) : len(flat) - len(closing)]
    if not _is_list_of_calls(entries) and inner + len(joined) <= LINE_LENGTH:
        return f"{opening}\n{' ' * inner}{joined}\n{' ' * indent}{closing}"
    lines = [f"{' ' * inner}{_entry(prefix, value, count, inner)}," for prefix, value, count in entries]
    return "\n".join((opening, *lines, " " * indent + closing))


def _is_list_of_calls(entries: Sequence[WrittenEntry]) -> bool:
    """Several layers, or a dictionary: a reader wants them one a line."""
    calls = [prefix for prefix, value, _ in entries if isinstance(value, Invocation)]
    return len(calls) > 1 and (not calls[1] or calls[1].endswith(": "))


def flat_text(expression: Expression) -> str:
    """The expression on one line."""
    if isinstance(expression, Code):
        return expression.text
    opening, entries, closing = _parts(expression)
    texts = [_repeated(prefix + flat_text(value), count) for prefix, value, count in entries]
    comma = "," if isinstance(expression, Display) and expression.brackets == "()" and len(entries) == 1 else ""
    return f"{opening}{', '.join(texts)}{comma}{closing}"


def _repeated(text: str, count: int) -> str:
    return text if count == 1 else f"*({text} for _ in range({count}))"


def _entry(prefix: str, value: Expression, count: int, indent: int) -> str:
    if count == 1:
        return prefix + render(value, indent, len(prefix), 1)
    flat = _repeated(flat_text(value), count)
    if indent + len(flat) + 1 <= LINE_LENGTH:
        return flat
    inner = " " * (indent + _INDENT)
    body = render(value, indent + _INDENT)
    return f"*(\n{inner}{body}\n{inner}for _ in range({count})\n{' ' * indent})"


def _parts(expression: Invocation | Display) -> tuple[str, list[WrittenEntry], str]:
    if isinstance(expression, Invocation):
        return f"{expression.callee}(", list(_argument_entries(given(expression))), ")"
    opening, closing = expression.brackets[0], expression.brackets[1]
    if expression.brackets == "{}" and expression.keys:
        return "{", [(f"{k}: ", v, 1) for k, v in zip(expression.keys, expression.items, strict=True)], "}"
    return opening, list(_runs(expression.items)), closing


def _argument_entries(arguments: Sequence[Argument]) -> Iterator[WrittenEntry]:
    yield from _runs([a.value for a in arguments if not a.keyword])
    yield from ((f"{a.name}=", a.value, 1) for a in arguments if a.keyword)


def _runs(values: Sequence[Expression]) -> Iterator[WrittenEntry]:
    """Equal calls in a row as one entry."""
    for value, run in groupby(values):
        count = len(list(run))
        if count >= _REPEATED and isinstance(value, Invocation):
            yield "", value, count
        else:
            yield from (("", value, 1) for _ in range(count))
