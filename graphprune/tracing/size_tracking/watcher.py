"""The mode that sees every torch function before it is taken apart, with the sizes that it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from graphprune.tracing.sizes import SizeLog, SizeUse, expr_of, plain
from graphprune.utils.operators import Args, FunctionMode, Kwargs

Lookup = Callable[[Tensor], fx.Node | None]


Handler = Callable[["SizeWatcher", Any, tuple[Any, ...], dict[str, Any]], Any]


def named(names: str, args: Args, kwargs: Kwargs) -> dict[str, Any]:
    """The arguments of a function whose positional ones have these names."""
    return dict(zip(names.split(), args, strict=False)) | kwargs


_FIRST = ("input", "data", "a", "x", "x1")
"""What the first argument of a torch function may be called, by numpy's names too."""
_OF_NUMPY = {"axis": "dim", "x2": "other"}
"""Names of other arguments that torch takes from numpy, with its own."""


def by_torchs_names(args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
    """The same arguments, the first by its position and no other by a name of numpy's."""
    given = {_OF_NUMPY.get(name, name): value for name, value in kwargs.items()}
    first = next((name for name in _FIRST if name in given), None)
    return (args, given) if args or first is None else ((given.pop(first),), given)


def whole(value: Any) -> Any:
    """A whole number of numpy, or a tensor of one, as the integer that torch takes it for; in lists, too."""
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, Tensor):
        counts = value.ndim == 0 and value.dtype in (torch.int32, torch.int64) and not value.is_meta
        return int(value) if counts else value
    if type(value) in (list, tuple) and any(isinstance(one, np.integer | Tensor) for one in value):
        return type(value)(map(whole, value))
    return value


def taking_whole_numbers(handler: Handler, first: int = 1) -> Handler:
    """The handler of a function whose arguments from ``first`` on are sizes, whatever their type."""

    def handle(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
        sizes = [whole(value) for value in args[first:]]
        return handler(watcher, func, (*args[:first], *sizes), {name: whole(value) for name, value in kwargs.items()})

    return handle


class SizeWatcher(FunctionMode):
    """Record the sizes that a program reads from tensors and gives to torch functions.

    Args:
        log: where they are written down.
        node_of: the node that made a tensor.
        handlers: what to do when a function is called that takes or gives sizes. These are given the first argument
            by its position, and others by torch's names.
        handler_of_others: what to do when another one is.
    """

    def __init__(
        self,
        log: SizeLog,
        node_of: Lookup,
        handlers: Mapping[Any, Handler],
        handler_of_others: Callable[[Any], Handler],
    ) -> None:
        super().__init__()
        self.log = log
        self.node_of = node_of
        self._handlers = handlers
        self._handler_of_others = handler_of_others

    def __torch_function__(self, func: Any, types: Any, args: Args = (), kwargs: Kwargs | None = None) -> Any:
        handler = self._handlers.get(func)
        if handler is None:
            return self._handler_of_others(func)(self, func, args, kwargs or {})
        return handler(self, func, *(by_torchs_names(args, kwargs) if kwargs else (args, {})))

    def note(self, tensor: Any, dim: int | str, size: Any, prefix: bool = False) -> None:
        """Write down that ``size`` was given for dimension ``dim`` of ``tensor``."""
        node = self.node_of(tensor) if isinstance(tensor, Tensor) else None
        if node is not None and isinstance(size, int):
            line, module = self.log.where()
            if isinstance(dim, int) and dim < 0:
                dim += tensor.ndim
            self.log.uses.append(SizeUse(node, dim, expr_of(size), line, module, prefix))

    def note_all(self, tensor: Any, sizes: Iterable[Any], first: int = 0) -> None:
        for i, size in enumerate(sizes):
            if isinstance(size, int) and plain(size) > 1:
                self.note(tensor, first + i, size)
