"""From the text of an option to its value."""

from __future__ import annotations

from typing import Any

import typer


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
    if 1 < value <= 100:
        raise typer.BadParameter(f"{text} is neither a fraction nor an amount; give {value / 100:g}, {value:g}% or 2G")
    return value if value <= 1 else text


def read_whole_number(given: Any) -> int:
    """A whole number."""
    try:
        value = float(str(given))
        if value.is_integer():
            return int(value)
        raise ValueError
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{str(given)!r} is no whole number") from None


def read_number(given: Any) -> float:
    """Any number."""
    try:
        return float(str(given))
    except ValueError:
        raise typer.BadParameter(f"{str(given)!r} is no number") from None


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
