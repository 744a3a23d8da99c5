"""What is asked of a run, as JSON data, by which a run that goes on knows that it is asked the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING
from functools import partial
from typing import Any

from torch import nn

from graphprune.planning.options import OPTION_FIELDS, PruningOptions
from graphprune.utils.digests import digest
from graphprune.utils.tree import tensors_of

_NOT_TOLD = frozenset(("calibration", "weights"))
"""What is data."""


def asked_of(options: PruningOptions) -> dict[str, Any]:
    """The options that differ from their defaults, without batches and weights."""
    given = {one.name: (getattr(options, one.name), _default(one)) for one in OPTION_FIELDS}
    return {name: as_data(value) for name, (value, usual) in given.items() if name not in _NOT_TOLD and value != usual}


def _default(one: Any) -> Any:
    return one.default if one.default is not MISSING else one.default_factory()


def as_data(value: Any) -> Any:
    """A value as JSON data that is the same in another process: functions and classes by name, tensors by a digest.

    An object that prints its address alone is told by its class and what it holds.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(as_data(key)): as_data(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_data(item) for item in value]
    if isinstance(value, partial):
        return {"partial": as_data(value.func), "args": as_data(value.args), "keywords": as_data(value.keywords)}
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    if tensors := list(tensors_of(value)):
        return digest([tensors])
    return _object_as_data(value)


def _object_as_data(value: Any) -> Any:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, nn.Module):  # one that overrides= names
        return {"class": kind, "prints": repr(value)}
    text = repr(value)
    if " at 0x" not in text:
        return text
    return {"class": kind, **as_data(vars(value) if hasattr(value, "__dict__") else {})}
