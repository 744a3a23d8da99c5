"""Settings in objects that modules hold, such as configurations: written down as data, and set in another model.

What counts are plain values under public names, or behind properties of such. They are put past the setters and checks
of the object's class, which may refuse the sizes that pruning leaves.
"""

from __future__ import annotations

import dataclasses
from argparse import Namespace
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from graphprune.export.plain_data import MOST_LEVELS, decode, encode
from graphprune.tracing.size_places import is_plain_object

_LEFT_OUT = frozenset(("auto_map", "quantization_config", "transformers_version"))
"""Names that bring other code with them, or say what wrote a file."""


def holds_settings(value: Any) -> bool:
    """Is it an object that is there to hold settings: a configuration, a dataclass or a namespace?"""
    known = hasattr(type(value), "to_dict") or isinstance(value, Namespace | SimpleNamespace)
    return (known or dataclasses.is_dataclass(value)) and is_plain_object(value) and hasattr(value, "__dict__")


def described_settings(holder: Any, seen: set[int], levels: int = MOST_LEVELS) -> dict[str, Any]:
    """The settings of an object as JSON data, those of objects within too.

    Args:
        holder: an object that :func:`holds_settings`.
        seen: the identities of objects that are described already, of which nothing is said again; gets new ones.
        levels: how deep values may lie; what lies deeper is left out.
    """
    if id(holder) in seen:
        return {}
    seen.add(id(holder))
    return dict(_described(holder, seen, levels - 1))


def set_settings(holder: Any, data: dict[str, Any]) -> None:
    """Give an object the settings that were described of another one; what it has beside them stays."""
    own = vars(holder)
    for name, item in data.items():
        now = own.get(name)
        if isinstance(item, dict) and "object" in item:
            if holds_settings(now):
                set_settings(now, item["object"])
        elif name in own or not (name.startswith("_") or hasattr(type(holder), name)):
            own[name] = decode(item)


def check_settings(data: Any, levels: int = MOST_LEVELS) -> None:
    """Raise a ValueError if it is not what :func:`described_settings` makes."""
    if not isinstance(data, dict) or not levels:
        raise ValueError(f"{str(data)[:60]} are no settings")
    for name, item in data.items():
        if not _may_be_set(name):
            raise ValueError(f"{name[:60]!r} is no name of a setting")
        if isinstance(item, dict) and item.keys() == {"object"}:
            check_settings(item["object"], levels - 1)
        else:
            decode(item, levels - 1)


def _may_be_set(name: str) -> bool:
    return name.isidentifier() and not name.startswith("__") and name not in _LEFT_OUT


def _is_public(holder: Any, name: str) -> bool:
    """Has an attribute a public name, or is it what a property of one keeps (``_output_attentions``)?"""
    return not name.startswith("_") or isinstance(getattr(type(holder), name[1:], None), property)


def _described(holder: Any, seen: set[int], levels: int) -> Iterator[tuple[str, Any]]:
    for name, value in vars(holder).items():
        if not (_may_be_set(name) and _is_public(holder, name)):
            continue
        if holds_settings(value):
            if levels:
                yield name, {"object": described_settings(value, seen, levels)}
            continue
        try:
            yield name, encode(value, levels)
        except TypeError:
            continue  # as anything else that a bundle does not hold, it is compared when the bundle is written
