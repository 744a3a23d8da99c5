"""Sizes that a program reads from tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from graphprune.tracing.size_tracking.numbers import number, other
from graphprune.tracing.size_tracking.watcher import SizeWatcher
from graphprune.tracing.sizes import Dim, Size, plain
from graphprune.utils.operators import Args, Kwargs
from graphprune.utils.storages import storage_of


def shape(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    tensor = args[0]
    shape = func(*args, **kwargs)
    node = watcher.node_of(tensor)
    if node is None:
        return shape
    if isinstance(shape, int):
        dim = args[1] if len(args) > 1 else kwargs["dim"]
        return Size(shape, Dim(node, dim % tensor.ndim, shape), watcher.log)
    return torch.Size([Size(s, Dim(node, i, s), watcher.log) for i, s in enumerate(shape)])


def numel(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    sizes = shape(watcher, Tensor.size, (args[0],), {})
    total: Any = 1
    for size in sizes:
        total = size * total if plain(size) != 1 else total
    return total


def length(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """Python makes an integer of what ``len`` gives."""
    found = func(*args, **kwargs)
    size = shape(watcher, Tensor.size, (*args, 0), {})
    return size.number() if type(size) is Size else found


def device(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """A program that asks where a tensor lives must not go another way because it is traced on ``meta``."""
    device = func(*args, **kwargs)
    return torch.device("cpu") if device.type == "meta" else device


def dim_of(watcher: SizeWatcher, tensor: Tensor, dim: int) -> Dim | None:
    node = watcher.node_of(tensor)
    return None if node is None else Dim(node, dim, plain(tensor.shape[dim]))


def storage(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """A program that pickles a tensor reads its memory. There is none on ``meta``, and to read it there crashes."""
    if args[0].is_meta and watcher.log.on_meta:
        raise NotImplementedError("the program reads the memory of a tensor, which on meta has none")
    return values(watcher, func, args, kwargs)


def values(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """A program that makes numbers, text or an array of a tensor looks at its entries one by one."""
    if watcher.log.unknown and storage_of(args[0]) in watcher.log.unknown:
        raise NotImplementedError("the program reads entries that were worked out from floats, which on meta are none")
    node = watcher.node_of(args[0])
    if node is not None:
        watcher.log.values(node)
    return other(watcher, func, args, kwargs)


def pickled(reduce: Callable[..., Any]) -> Callable[..., Any]:
    """What a tensor is written as has its sizes as numbers: a reader may take nothing else."""

    def reduced(tensor: Tensor, protocol: Any) -> Any:
        return _plain_numbers(reduce(tensor, protocol))

    return reduced


def _plain_numbers(value: Any) -> Any:
    if type(value) is Size:
        return plain(value)
    return tuple(map(_plain_numbers, value)) if type(value) in (tuple, torch.Size) else value


def shape_tensor(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """The shape as a tensor of numbers: a constant, since what torch writes to its memory is not seen."""
    sizes = shape(watcher, Tensor.size, (args[0],), {})
    number(sizes)
    return torch.tensor([plain(size) for size in sizes], device="cpu")
