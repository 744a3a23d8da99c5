"""From the text of an option to its value."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import typer

from graphprune.cli.references import check_reference


def read_fraction(given: Any) -> float:
    """A fraction: ``0.5`` or ``50%``.

    >>> read_fraction("0.25"), read_fraction("25 %")
    (0.25, 0.25)
    """
    text = str(given).strip()
    percent = text.endswith("%")
    try:
        value = float(text.rstrip("% "))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no fraction; give one such as 0.5 or 50%") from None
    if percent:
        return value / 100
    if value > 1:
        meant = f"; for {value:g} percent give {value / 100:g} or {value:g}%" if 2 <= value <= 100 else ""
        raise typer.BadParameter(f"must be a fraction, but is {text}{meant}")
    return value


def read_budget(given: Any) -> float | str:
    """A fraction if it looks like one, else an amount with its unit.

    >>> read_budget("0.5"), read_budget("40%"), read_budget("2G"), read_budget("1000")
    (0.5, 0.4, '2G', '1000')
    """
    text = str(given).strip()
    if text.endswith("%"):
        return read_fraction(text)
    try:
        value = float(text)
    except ValueError:
        return text
    if text == "1":
        raise typer.BadParameter("1 may be a fraction or an amount; give 1.0 for all of it, or an amount with its unit")
    if 1 < value <= 100:
        raise typer.BadParameter(
            f"{text} is neither a fraction nor an amount; give {value / 100:g}, {value:g}%, or an amount with its unit"
        )
    return value if value <= 1 else text


def read_whole_number(given: Any) -> int:
    """A whole number.

    >>> read_whole_number("12345678901234567891"), read_whole_number("1e3")
    (12345678901234567891, 1000)
    """
    try:
        return int(str(given))
    except ValueError:
        value = read_number(given)
    if not value.is_integer():
        raise typer.BadParameter(f"{str(given)!r} is no whole number")
    return int(value)


def read_number(given: Any) -> float:
    """Any finite number."""
    try:
        value = float(str(given))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise typer.BadParameter(f"{str(given)!r} is no number")
    return value


def at_least(least: float, read: Callable[[Any], Any] = read_whole_number) -> Callable[[Any], Any]:
    """What reads a number that may not be smaller.

    >>> at_least(1)("8")
    8
    """

    def number(given: Any) -> Any:
        value = read(given)
        if value < least:
            raise typer.BadParameter(f"must be {least} or more, but is {value}")
        return value

    return number


def read_positive(given: Any) -> float:
    """A number above 0."""
    value = read_number(given)
    if value <= 0:
        raise typer.BadParameter(f"must be above 0, but is {value:g}")
    return value


def read_input(given: Any) -> tuple[int, ...] | str:
    """A shape, or ``module:function``.

    >>> read_input("1,3,224,224")
    (1, 3, 224, 224)
    """
    text = str(given)
    if ":" not in text:
        return read_shape(given)
    check_reference("--input", text)
    return text


def read_shape(given: Any) -> tuple[int, ...]:
    """Sizes: ``1,3,224,224`` or ``1x3x224x224``.

    >>> read_shape("1,3,224,224"), read_shape("1x8")
    ((1, 3, 224, 224), (1, 8))
    """
    text = str(given)
    try:
        shape = tuple(int(size) for size in text.strip("()[] ").replace("x", ",").split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no shape; give whole numbers such as 1,3,224,224") from None
    if min(shape) < 1:
        raise typer.BadParameter(f"{text} has a size below 1")
    return shape
