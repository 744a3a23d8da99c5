"""Plain values as JSON data and back: numbers, strings, truth values, types of tensors, and what holds such."""

from __future__ import annotations

import math
from typing import Any

import torch

MOST_LEVELS = 12
"""Levels of values within values that are written and read."""


def encode(value: Any, levels: int = MOST_LEVELS) -> Any:
    """A plain value as JSON data: a tuple is ``{"tuple": [...]}``, a dictionary ``{"keys": [...], "values": [...]}``.

    Raises:
        TypeError: it is more than plain data, or nested deeper than ``levels``.
    """
    kind = type(value)
    if kind in (bool, str, type(None)) or (kind is int and abs(value) < 1 << 63):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if kind is torch.dtype:
        return {"dtype": str(value).removeprefix("torch.")}
    if kind not in (list, tuple, dict) or not levels:
        raise TypeError(f"{kind.__name__} is no plain data")
    entries = [encode(item, levels - 1) for item in (value.values() if kind is dict else value)]
    if kind is dict:
        return {"keys": [encode(key, 1) for key in value], "values": entries}
    return {"tuple": entries} if kind is tuple else entries


def decode(data: Any, levels: int = MOST_LEVELS) -> Any:
    """The inverse of :func:`encode`.

    Raises:
        ValueError: it is not what that makes.
    """
    if not isinstance(data, list | dict):
        return data
    if isinstance(data, list) and levels:
        return [decode(item, levels - 1) for item in data]
    match data:
        case {"tuple": list(items), **rest} if levels and not rest:
            return tuple(decode(item, levels - 1) for item in items)
        case {"keys": list(keys), "values": list(values), **rest} if levels and not rest and len(keys) == len(values):
            return {_key(key): decode(item, levels - 1) for key, item in zip(keys, values, strict=True)}
        case {"float": "inf" | "-inf" | "nan" as text, **rest} if not rest:
            return float(text)
        case {"dtype": str(text), **rest} if not rest and isinstance(getattr(torch, text, None), torch.dtype):
            return getattr(torch, text)
    raise ValueError(f"{str(data)[:60]} is no setting")


def is_plain_data(value: Any) -> bool:
    """Is a value plain data, of which a description says all?"""
    try:
        encode(value)
    except TypeError:
        return False
    return True


def _key(data: Any) -> Any:
    """A plain value, or a tuple of such."""
    if isinstance(data, list) or (isinstance(data, dict) and "keys" in data):
        raise ValueError(f"{str(data)[:60]} is no key")
    return decode(data, 1)
