"""What was changed in a model after it was built, and no file of its class gives back: found without running it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch import Tensor, nn

from graphprune.export.structure import function_name, hook_count
from graphprune.tracing.size_places import attributes_held, is_container, is_plain_object, steps_into
from graphprune.utils.modules import named_modules


def lost_changes(model: nn.Module, rebuilt: nn.Module) -> Iterator[str]:
    """The places at which a model has what the rebuilt one lacks: hooks, methods of its own, and other values.

    Settings, tensors that both have, and attributes that a fresh module does not have are not looked at
    (:func:`graphprune.export.slim_record.slim_record` compares these).
    """
    others, seen = dict(named_modules(rebuilt)), set[int]()
    for path, module in named_modules(model):
        if path not in others:
            continue
        place = f"{path}." if path else ""
        new, old = attributes_held(module), attributes_held(others[path])
        if hook_count(module) > hook_count(others[path]):
            yield f"{path or 'the model'} (a hook)"
        for name, value in new.items():
            if name in old:
                yield from _lost(f"{place}{name}", value, old[name], seen)
            elif callable(value) and callable(getattr(type(module), name, None)):
                yield f"{place}{name} (a function that was set)"


def _lost(place: str, new: Any, old: Any, seen: set[int]) -> Iterator[str]:
    """The places in what a module holds; what the rebuilt one has as None may be worked out later."""
    if isinstance(new, np.ndarray | np.generic):
        if not _same_array(new, old):
            yield f"{place} (a value of numpy)"
    elif isinstance(new, Tensor):
        if isinstance(old, bool | int | float | complex | np.generic):
            yield f"{place} (a tensor in the place of a number)"
    elif function_name(new) is not None:
        if function_name(old) != function_name(new) and old is not None:
            yield f"{place} (a function that was set)"
    elif (is_container(new) or is_plain_object(new)) and id(new) not in seen:
        seen.add(id(new))
        there = dict(steps_into(old))
        for step, item in steps_into(new):
            if step in there:
                yield from _lost(place + step, item, there[step], seen)


def _same_array(new: Any, old: Any) -> bool:
    if old is None:
        return isinstance(new, np.ndarray)
    return (
        type(new) is type(old) and new.dtype == old.dtype and new.shape == old.shape and new.tobytes() == old.tobytes()
    )
