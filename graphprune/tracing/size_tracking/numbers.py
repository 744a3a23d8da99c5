"""Sizes that become numbers, which must stay what they are."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from graphprune.tracing.size_tracking.watcher import SizeWatcher
from graphprune.tracing.sizes import Dim, Ratio, Size, plain
from graphprune.utils.operators import Args, Kwargs

_SIZES: frozenset[type] = frozenset((Size, Ratio, tuple, list, torch.Size))
"""What may be or hold sizes."""


def other(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    for value in (*args, *kwargs.values()) if kwargs else args:
        if type(value) in _SIZES:
            number(value)
    return func(*args, **kwargs)


def untouched(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    return func(*args, **kwargs)


def number(value: Any) -> None:
    """All sizes in nested tuples and lists are numbers."""
    if type(value) in (Size, Ratio):
        value.number()
    elif type(value) in (tuple, list, torch.Size):
        for item in value:
            number(item)


def of_numbers(function: Callable[..., float]) -> Callable[..., float]:
    """A function that looks at a number past its methods."""

    def call(*values: Any, **options: Any) -> float:
        return function(*(x.number() if type(x) in (Size, Ratio) else x for x in values), **options)

    return call


def product_of_sizes(function: Callable[..., Any]) -> Callable[..., Any]:
    """``np.prod(x.shape[1:])`` is a size."""

    def multiply(values: Any, *args: Any, **kwargs: Any) -> Any:
        sizes = isinstance(values, tuple | list) and any(type(x) is Size for x in values)
        return math.prod(values) if sizes and not args and not kwargs else function(values, *args, **kwargs)

    return multiply


def literal(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """``torch.tensor(values, device=...)`` keeps its values also where the model lives on ``meta``."""
    number([*args, *kwargs.values()])
    if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "meta":
        kwargs = {**kwargs, "device": "cpu"}
    return func(*args, **kwargs)


def new_tensor(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """``x.new_tensor(values)`` is ``torch.tensor`` with the type of ``x``."""
    x, values = args if len(args) > 1 else (args[0], kwargs["data"])
    return literal(watcher, torch.tensor, (values,), {"dtype": kwargs.get("dtype", x.dtype)})


def attention(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """Without ``scale`` the scores are divided by the square root of the head width, as a number."""
    number(kwargs.get("scale"))
    if kwargs.get("scale") is None:
        query = args[0] if args else kwargs["query"]
        node = watcher.node_of(query)
        if node is not None:
            watcher.log.number(Dim(node, query.ndim - 1, plain(query.shape[-1])))
    return func(*args, **kwargs)
