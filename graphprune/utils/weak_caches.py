"""What is worked out once for each class or object, and forgotten with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar
from weakref import WeakKeyDictionary

_Key = TypeVar("_Key")
_Result = TypeVar("_Result")


def once_for_each(work: Callable[[_Key], _Result]) -> Callable[[_Key], _Result]:
    """Let a function remember what it found, as long as what it was asked about is there."""
    known: WeakKeyDictionary[_Key, _Result] = WeakKeyDictionary()

    @wraps(work)
    def remembered(key: _Key) -> _Result:
        if key not in known:
            known[key] = work(key)
        return known[key]

    return remembered
