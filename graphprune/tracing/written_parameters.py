"""Parameters that a program writes to while it runs (``max_norm`` of embeddings, weights that are clamped in forward).

There may be gigabytes of parameters, so that none is copied until something is about to be written to it.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import torch.nn.functional as F
from torch import nn

from graphprune.errors import Owner, owner_of
from graphprune.utils.operators import Args, FunctionMode, Kwargs
from graphprune.utils.storages import storage_of
from graphprune.utils.tree import tensors_of

IN_PLACE = re.compile(r"[a-z0-9]_$|^__(set|i\w+__)")
"""Names of functions that write to their first argument."""
_LOOKED_UP = (F.embedding, F.embedding_bag)
_MAX_NORM = 3
"""The place of ``max_norm`` among their arguments; the weight is the second one."""


class ParametersWatched(FunctionMode):
    """Tell of parameters, before the program of a model writes to them; what graphprune writes is not told of.

    Args:
        parameters: those that are looked for, and views of their memory.
        note: is given each of them before it is written to, every time.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], note: Callable[[nn.Parameter], None]) -> None:
        super().__init__()
        self._note = note
        self._in_memory: dict[int, list[nn.Parameter]] = defaultdict(list)
        for parameter in parameters:
            if not parameter.is_meta:
                self._in_memory[storage_of(parameter)].append(parameter)
        self._in_memory.pop(0, None)

    def __torch_function__(self, func: Any, types: Any, args: Args = (), kwargs: Kwargs | None = None) -> Any:
        kwargs = kwargs or {}
        written = list(tensors_of(_written(func, args, kwargs)))
        if written and _is_of_program(sys._getframe(1)):
            for parameter in [p for tensor in written for p in self._in_memory.get(storage_of(tensor), ())]:
                self._note(parameter)
        return func(*args, **kwargs)


def _written(func: Any, args: Args, kwargs: Kwargs) -> Any:
    """The arguments that a function of torch may write to."""
    if func in _LOOKED_UP:
        max_norm = args[_MAX_NORM] if len(args) > _MAX_NORM else kwargs.get("max_norm")
        return () if max_norm is None else (args, kwargs)
    return (args[:1] if IN_PLACE.search(getattr(func, "__name__", "")) else (), kwargs.get("out"))


def _is_of_program(frame: FrameType | None) -> bool:
    """Does a model run, rather than graphprune itself, which may write to parameters on purpose?"""
    while frame is not None and frame.f_code is not nn.Module._call_impl.__code__:
        owner = owner_of(frame)
        if owner is not Owner.FRAMEWORK:
            return owner is not Owner.OWN
        frame = frame.f_back
    return True
