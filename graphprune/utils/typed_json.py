"""Read JSON as types. What does not fit is a LoadError that says where, what was found and what is needed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from graphprune.errors import LoadError
from graphprune.utils.checks import with_article

LONGEST = 1 << 28
"""Characters that are read at most: the plan of a model with 10,000 channels in each of 1,000 layers has fewer."""

MOST_VALUES = 1 << 23
"""Values that are read at most: Python needs some hundred bytes for some of them, which have two characters in JSON."""

Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
"""A whole number of something, which fits into 64 bits."""

Positive = Annotated[int, Meta(ge=1, le=(1 << 63) - 1)]
"""The same, and not none of it."""

_T = TypeVar("_T")


def read_json(path: Path, what: str, advice: str, longest: int = LONGEST) -> Any:
    """The JSON data in a file.

    Args:
        what: names the argument, and the file, at the beginning of a message.
        advice: what to do, at its end.
        longest: bytes that are read at most.

    Raises:
        LoadError: the file cannot be read, is too large or is no JSON.
    """
    try:
        if path.stat().st_size > longest:
            raise LoadError(
                f"{what}: has {path.stat().st_size} bytes, more than the {longest} that are read",
                where=str(path),
                found=f"{path.stat().st_size} bytes",
                needed=f"at most {longest} bytes",
                do=advice,
            )
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(
            f"{what}: cannot be read ({error})",
            where=str(path),
            found=str(error),
            needed="a readable file of JSON in UTF-8",
            do=advice,
        ) from error
    return parse_json(text, what, advice)


def parse_json(text: str, what: str, advice: str) -> Any:
    """The JSON data in a string; ``what`` and ``advice`` as for :func:`read_json`.

    Raises:
        LoadError: it is no JSON, too long, or nested too deeply for Python.
    """
    if not isinstance(text, str):
        raise LoadError(
            f"{what}: is {with_article(type(text).__name__)}, not a string",
            where=what,
            found=f"{with_article(type(text).__name__)}",
            needed="a string of JSON",
            do=advice,
        )
    if len(text) > LONGEST:
        raise LoadError(
            f"{what}: has {len(text)} characters, more than the {LONGEST} that are read",
            where=what,
            found=f"{len(text)} characters",
            needed=f"at most {LONGEST} characters",
            do=advice,
        )
    if (count := sum(map(text.count, ",[{"))) > MOST_VALUES:
        raise LoadError(
            f"{what}: has {count} values, more than the {MOST_VALUES} that are read",
            where=what,
            found=f"{count} values",
            needed=f"at most {MOST_VALUES} values",
            do=advice,
        )
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LoadError(
            f"{what}: not JSON ({error})",
            where=what,
            found=f"{len(text)} characters that begin with {text[:20]!r}: {error}",
            needed="JSON, whole",
            do=advice,
        ) from error


def convert_data(
    data: object,
    kind: type[_T],
    what: str,
    advice: str,
    convert: Callable[[type, Any], Any] | None = None,
) -> _T:
    """Data as a type that msgspec knows; ``what`` and ``advice`` as for :func:`read_json`.

    A dataclass needs each of its fields, also those that have defaults.

    Args:
        data: of lists, dicts, strings, numbers and the like. Keys that are strings count as the numbers in them.
        convert: makes what msgspec does not know: ``(type, data) -> value``, or a ValueError.

    Raises:
        LoadError: something is missing, too many, of another type or out of range.
    """
    try:
        if is_dataclass(kind) and isinstance(data, dict):
            _check_fields(data, {f.name for f in fields(kind)})
        return msgspec.convert(data, kind, str_keys=True, dec_hook=convert)
    except (ValueError, RecursionError, msgspec.ValidationError) as error:  # which msgspec 0.18 has beside ValueError
        raise LoadError(
            f"{what}: {error}",
            where=what,
            found=str(error),
            needed=f"data with the fields of {getattr(kind, '__name__', kind)}, each of its type",
            do=advice,
        ) from error


def _check_fields(data: dict[Any, Any], needed: set[str]) -> None:
    missing, unknown = sorted(needed - data.keys()), sorted(map(str, data.keys() - needed))
    if missing:
        raise ValueError(f"Object missing required field `{missing[0]}`")
    if unknown:
        raise ValueError(f"Object contains unknown field `{unknown[0]}`")
