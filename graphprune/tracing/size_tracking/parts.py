"""Sizes that cut: lengths of parts, and positions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import _disable_current_modes

from graphprune.tracing.size_tracking.reading import dim_of
from graphprune.tracing.size_tracking.watcher import SizeWatcher, named, whole
from graphprune.tracing.sizes import BinOp, Const, Dim, Expr, Size, SizeUse, expr_of, plain
from graphprune.utils.operators import Args, Kwargs


def split(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    outs = func(*args, **kwargs)
    sizes = args[1] if len(args) > 1 else next(kwargs[name] for name in _SIZES_OF_PARTS if name in kwargs)
    dim = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    if isinstance(sizes, int):
        sizes = [sizes] * (len(outs) - (outs[-1].shape[dim] != plain(sizes)))
    for out, size in zip(outs, sizes or (), strict=False):
        watcher.note(out, dim, size)
    return outs


_SIZES_OF_PARTS = ("split_size", "split_sizes", "split_size_or_sections")


def chunk(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """Chunks are as long as each other, or the last as much shorter: torch works that out from the slim tensor."""
    outs = func(*args, **kwargs)
    chunks = args[1] if len(args) > 1 else kwargs["chunks"]
    dim = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    _note_parts(watcher, args[0], outs, dim, chunks)
    return outs


def tensor_split(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """``tensor_split`` and its like: into a number of parts, or at positions."""
    outs = func(*args, **kwargs)
    given = named("input asked dim", args, kwargs)
    x, dim = given.pop("input"), given.pop("dim", 0)
    dim = _DIMS_OF_SPLITS[func.__name__](x) if func.__name__ in _DIMS_OF_SPLITS else dim
    (asked,) = given.values()  # of several names
    asked = asked.tolist() if isinstance(asked, Tensor) else asked
    if isinstance(asked, int):
        _note_parts(watcher, x, outs, dim, asked)
    else:
        for position in asked:
            note_positions(watcher, x, (slice(None),) * (dim % x.ndim) + (slice(position),))
    return outs


_DIMS_OF_SPLITS: dict[str, Callable[[Tensor], int]] = {
    "hsplit": lambda x: 1 if x.ndim > 1 else 0,
    "vsplit": lambda x: 0,
    "dsplit": lambda x: 2,
}


def _note_parts(watcher: SizeWatcher, x: Tensor, outs: Sequence[Tensor], dim: int, count: int) -> None:
    """As many parts as now, that torch works out from the slim tensor: as long as each other, or shorter by as much."""
    if type(count) is Size:
        watcher.log.equal(count.expr, Const(plain(count)))
    dims = [found for out in outs if (found := dim_of(watcher, out, dim % x.ndim))]
    if len(dims) < len(outs):
        return
    if len(outs) != plain(count):
        watcher.log.equal(dims[0], Const(dims[0].value))
    note_equal(watcher, dims)


def note_equal(watcher: SizeWatcher, dims: Sequence[Dim]) -> None:
    """The sizes are equal, or shorter than the first by as much as they are now."""
    for other in dims[1:]:
        shorter = dims[0].value - other.value
        watcher.log.equal(BinOp("-", dims[0], Const(shorter)) if shorter else dims[0], other)


def narrow(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    out = func(*args, **kwargs)
    given = named("input dim start length", args, kwargs)
    x, start = given["input"], given["start"]
    if isinstance(start, int):
        note_positions(watcher, x, (slice(None),) * (given["dim"] % x.ndim) + (slice(start, None),))
    watcher.note(out, given["dim"], given["length"])
    return out


def select(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    given = named("input dim index", args, kwargs)
    x, outer = given["input"], given["dim"] % given["input"].ndim
    note_positions(watcher, x, (slice(None),) * outer + (given["index"],))
    return func(*args, **kwargs)


def take_along(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """``gather``, where no number counts from behind: torch would take the remainder by the size."""
    given = named("input indices dim", args, kwargs)
    x, index, dim = given["input"], given["indices"], given.get("dim")
    if dim is None or len(given) > 3 or x.ndim != index.ndim or not _from_the_front(index):
        return func(*args, **kwargs)
    shape = [max(pair) if 0 not in pair else 0 for pair in zip(x.shape, index.shape, strict=True)]
    shape[dim] = -1
    return _expanded(x, shape).gather(dim, _expanded(index, shape))


def _from_the_front(numbers: Tensor) -> bool:
    """Are the values of a tensor known, and none of them negative?"""
    with _disable_current_modes():  # this is no part of the program
        return not numbers.is_meta and not (numbers < 0).any().item()


def _expanded(x: Tensor, shape: Sequence[int]) -> Tensor:
    """``x`` repeated along dimensions of size 1; -1: as it is."""
    same = all(wanted in (size, -1) for size, wanted in zip(x.shape, shape, strict=True))
    return x if same else x.expand(shape)


def getitem(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    place = _place_of_neighbors(index)
    if place is None:
        return func(args[0], _indices(watcher, *args))
    piece = _neighbors(index[place])
    assert piece is not None
    for bound in (piece.start, piece.stop) if piece.stop is not None else (piece.start,):  # a list ends where it says
        note_positions(watcher, args[0], (*index[:place], bound, *index[place + 1 :]))
    return func(args[0], (*index[:place], piece, *index[place + 1 :])).clone()


def _place_of_neighbors(index: tuple[Any, ...]) -> int | None:
    """Where an index has its one list, of neighbors, ``x[..., [-2], :]``; None for all others.

    Such an index makes a copy of what a slice is a view of.
    """
    lists = [place for place, i in enumerate(index) if isinstance(i, list | tuple | range)]
    if len(lists) != 1 or any(isinstance(i, Tensor | bool | np.ndarray) for i in index):
        return None
    return lists[0] if _neighbors(index[lists[0]]) is not None else None


def _neighbors(numbers: Sequence[Any]) -> slice | None:
    """The slice of numbers that go up by one, all of them from the front or all from behind."""
    if not numbers or any(type(n) is not int for n in numbers):
        return None
    first, last = numbers[0], numbers[-1]
    if list(numbers) != list(range(first, last + 1)) or (first < 0) != (last < 0):
        return None
    return slice(first, last + 1 or None)


def setitem(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    return func(args[0], _indices(watcher, *args[:2]), args[2])


def _indices(watcher: SizeWatcher, tensor: Tensor, given: Any) -> Any:
    """The same with tensors in place of lists, of which torch would make such on ``meta``, without values."""
    index = tuple(map(_of_integers, given if isinstance(given, tuple) else (given,)))
    if any(isinstance(i, slice | int) for i in index):
        note_positions(watcher, tensor, index)
    made = tuple(_listed(i) if isinstance(i, list | tuple | range) else i for i in index)
    return made if isinstance(given, tuple) else made[0]


def _of_integers(index: Any) -> Any:
    """An index or slice with integers in the place of numpy's."""
    if isinstance(index, np.integer):
        return int(index)
    if isinstance(index, slice) and any(isinstance(bound, np.integer) for bound in (index.start, index.stop)):
        return slice(whole(index.start), whole(index.stop), index.step)
    return index


def _listed(numbers: Sequence[Any]) -> Any:
    """A tensor of integers or booleans, nested or not; other lists as they are."""
    if any(isinstance(i, Tensor) for i in numbers):
        return numbers
    array = np.array(numbers if len(numbers) else np.zeros(0, np.int64))
    return torch.from_numpy(array) if array.dtype.kind in "bi" else numbers


def note_positions(watcher: SizeWatcher, tensor: Tensor, index: tuple[Any, ...]) -> None:
    """Write down where an index cuts; beyond the ends of a tensor a slice cuts nothing, also where it is shorter."""
    node = watcher.node_of(tensor)
    if node is None:
        return
    shape = node.meta["shape"]
    for dim, i in _indexed_dims(index, len(shape)):
        if isinstance(i, slice) and (i.start or 0) < (i.step or 1) != 1:
            continue  # a place within every period, wherever the tensor ends
        bounds = (i.start, i.stop) if isinstance(i, slice) else (i,)
        size = shape[dim] if isinstance(i, slice) else 1 << 62
        for bound in bounds:
            if isinstance(bound, int) and not isinstance(bound, bool) and 0 < abs(plain(bound)) < size:
                watcher.log.uses.append(
                    SizeUse(node, dim, _position(bound, node, dim), *watcher.log.where(), prefix=True)
                )


def _position(bound: int, node: fx.Node, dim: int) -> Expr:
    if plain(bound) >= 0:
        return expr_of(bound)
    return BinOp("+", Dim(node, dim, node.meta["shape"][dim]), expr_of(bound))


def _indexed_dims(index: tuple[Any, ...], ndim: int) -> Iterator[tuple[int, Any]]:
    consumed = sum(_width(i) for i in index)
    dim = 0
    for i in index:
        if i is Ellipsis:
            dim += ndim - consumed
        else:
            if isinstance(i, slice | int) and not isinstance(i, bool):
                yield dim, i
            dim += _width(i)


def _width(index: Any) -> int:
    if index is None or index is Ellipsis or isinstance(index, bool):
        return 0
    return index.ndim if isinstance(index, Tensor) and index.dtype == torch.bool else 1
