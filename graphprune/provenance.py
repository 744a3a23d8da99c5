"""Watch sizes arrive in torch functions: the size half of tracing.

A :class:`SizeWatcher` sits above the recorder while the model runs. It answers ``.shape`` with sizes that
remember their tensor, and notes every size given to a function that takes one. Given to any other, it is a number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torch.overrides import TorchFunctionMode

from graphprune.sizes import BinOp, Const, Dim, Expr, Size, SizeLog, SizeUse, expr_of, plain

Lookup = Callable[[Tensor], fx.Node | None]
Handler = Callable[["SizeWatcher", Any, tuple, dict], Any]


class SizeWatcher(TorchFunctionMode):
    """Record the sizes that a program reads from tensors and gives to torch functions."""

    def __init__(self, log: SizeLog, node_of: Lookup) -> None:
        super().__init__()
        self.log = log
        self.node_of = node_of

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        return HANDLERS.get(func, _other)(self, func, args, kwargs)

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


@contextmanager
def watching(log: SizeLog, node_of: Lookup) -> Iterator[None]:
    """Watch sizes within; the Python bodies of torch.nn.functional are watched too, not skipped over."""
    quiet: dict[str, Any] = {name: lambda *_: False for name in vars(F) if name.startswith("has_torch_function")}
    logarithms: dict[str, Any] = {name: _of_numbers(getattr(math, name)) for name in ("log", "log2", "log10")}
    with (
        mock.patch.multiple(F, **quiet),
        mock.patch.multiple(math, **logarithms),
        mock.patch.object(np, "prod", _product(np.prod)),
        SizeWatcher(log, node_of),
    ):
        yield


def _of_numbers(function: Callable[..., float]) -> Callable[..., float]:
    """A function that looks at an integer past its methods."""
    return lambda *values: function(*(x.number() if type(x) is Size else x for x in values))


def _product(function: Callable[..., Any]) -> Callable[..., Any]:
    """``np.prod(x.shape[1:])`` is a size."""

    def product(values: Any, *args: Any, **kwargs: Any) -> Any:
        sizes = isinstance(values, tuple | list) and any(type(x) is Size for x in values)
        return math.prod(values) if sizes and not args and not kwargs else function(values, *args, **kwargs)

    return product


def _other(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
    for value in (*args, *kwargs.values()):
        _number(value)
    return func(*args, **kwargs)


def _number(value: Any) -> None:
    """All sizes in nested tuples and lists are numbers."""
    if type(value) is Size:
        value.number()
    elif type(value) in (tuple, list, torch.Size):
        for item in value:
            _number(item)


def _shape(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
    tensor = args[0]
    shape = func(*args, **kwargs)
    node = watcher.node_of(tensor)
    if node is None:
        return shape
    if isinstance(shape, int):
        dim = args[1] if len(args) > 1 else kwargs["dim"]
        return Size(shape, Dim(node, dim % tensor.ndim, shape), watcher.log)
    return torch.Size([Size(s, Dim(node, i, s), watcher.log) for i, s in enumerate(shape)])


def _flat(sizes: Sequence[Any]) -> Sequence[Any]:
    return sizes[0] if sizes and isinstance(sizes[0], tuple | list) else sizes


def _view(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
    out = func(*args, **kwargs)
    sizes = _flat([*args[1:], *kwargs.values()])
    if sizes and isinstance(sizes[0], int):
        watcher.note_all(out, sizes)
    return out


def _like_another(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
    """``x.expand_as(y)`` has the sizes of ``y``, whatever becomes of ``x``."""
    out = func(*args, **kwargs)
    watcher.note_all(out, _shape(watcher, Tensor.size, (args[1] if len(args) > 1 else kwargs["other"],), {}))
    return out


def _broadcast(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
    """All results have the same sizes."""
    outs = func(*args, **kwargs)
    for dim in range(outs[0].ndim):
        _note_equal(watcher, [found for out in outs if (found := _dim_of(watcher, out, dim))])
    return outs


def _unflatten(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
    out = func(*args, **kwargs)
    dim, sizes = (*args[1:], *kwargs.values())[:2]
    watcher.note_all(out, sizes, dim % args[0].ndim)
    return out


def _repeat(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
    """``x.repeat(1, heads, 1)``; ``tile`` may be given fewer numbers than there are dimensions."""
    out = func(*args, **kwargs)
    counts = _flat([*args[1:], *kwargs.values()])
    for dim, count in zip(range(-len(counts), 0), counts, strict=True):
        _note_copies(watcher, out, args[0], dim, count)
    return out


def _repeat_interleave(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
    """Without a dimension all entries are laid one behind another; counts in a tensor say nothing."""
    out = func(*args, **kwargs)
    given: dict[str, Any] = dict(zip(("input", "repeats", "dim"), args, strict=False)) | kwargs
    x, dim = given["input"], given.get("dim")
    if isinstance(count := given.get("repeats"), int):
        if dim is None:
            watcher.note(out, 0, _numel(watcher, func, (x,), {}) * count)
        else:
            _note_copies(watcher, out, x, dim if dim < 0 else dim - x.ndim, count)
    return out


def _note_copies(watcher: SizeWatcher, out: Tensor, x: Tensor, dim: int, count: int) -> None:
    """A dimension, counted from the last one, is ``count`` times as long as that of ``x``."""
    size = _shape(watcher, Tensor.size, (x,), {})[dim] if -dim <= x.ndim else 1
    if plain(count) > 1:
        watcher.note(out, dim, count if plain(size) == 1 else size * count)


def _factory(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
    return _filled(watcher, func(*args, **kwargs), args[1:], kwargs)


def _made(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
    """``torch.zeros(2, width)``; a size may be a tensor, and says nothing then."""
    return _filled(watcher, func(*args, **kwargs), args, kwargs)


def _filled(watcher: SizeWatcher, out: Any, args: tuple, kwargs: dict) -> Any:
    """Sizes come first, as one argument or several; what comes after one argument is what the tensor is filled with."""
    watcher.note_all(out, _flat(args or [kwargs.get("size", ())]))
    _number([*(args[1:] if args and isinstance(args[0], tuple | list) else ()), kwargs.get("fill_value")])
    return out


def _one_hot(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
    out = func(*args, **kwargs)
    watcher.note_all(out, [args[1] if len(args) > 1 else kwargs.get("num_classes", -1)], out.ndim - 1)
    return out


def _counted(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
    """``torch.arange(n)`` is as long as ``n`` says; in any other form a size is a number."""
    out = func(*args, **kwargs)
    numbers = [a for a in (*args, *kwargs.values()) if type(a) is Size]
    if func is torch.arange and len(args) == 1 and len(numbers) == 1:
        watcher.note(out, 0, args[0])
    else:
        for size in numbers:
            size.number()
    return out


def _steps(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
    """A recurrent layer is traced as its steps, also where the processor has it as one call."""
    switch: Any = torch.backends.mkldnn
    enabled, switch.enabled = switch.enabled, False
    try:
        return func(*args, **kwargs)
    finally:
        switch.enabled = enabled


def _split(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
    outs = func(*args, **kwargs)
    sizes = args[1] if len(args) > 1 else kwargs.get("split_size", kwargs.get("split_size_or_sections"))
    dim = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    if isinstance(sizes, int):
        sizes = [sizes] * (len(outs) - (outs[-1].shape[dim] != plain(sizes)))
    for out, size in zip(outs, sizes or (), strict=False):
        watcher.note(out, dim, size)
    return outs


def _chunk(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
    """Chunks are as long as each other, or the last as much shorter: torch works that out from the slim tensor."""
    outs = func(*args, **kwargs)
    chunks = args[1] if len(args) > 1 else kwargs["chunks"]
    dim = args[2] if len(args) > 2 else kwargs.get("dim", 0)
    _note_parts(watcher, args[0], outs, dim, chunks)
    return outs


def _note_parts(watcher: SizeWatcher, x: Tensor, outs: Sequence[Tensor], dim: int, count: int) -> None:
    """Parts that torch works out from the slim tensor: as long as each other, or shorter by as much as now."""
    dims = [found for out in outs if (found := _dim_of(watcher, out, dim % x.ndim))]
    if len(dims) < len(outs):
        return
    if len(outs) != plain(count):
        watcher.log.equal(dims[0], Const(dims[0].value))
    _note_equal(watcher, dims)


def _note_equal(watcher: SizeWatcher, dims: Sequence[Dim]) -> None:
    """The sizes are equal, or shorter than the first by as much as they are now."""
    for other in dims[1:]:
        shorter = dims[0].value - other.value
        watcher.log.equal(BinOp("-", dims[0], Const(shorter)) if shorter else dims[0], other)


def _tensor_split(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
    """``tensor_split`` and its like: into a number of parts, or at positions."""
    outs = func(*args, **kwargs)
    x, asked, *dims = *args, *kwargs.values()
    dim = _DIMS_OF_SPLITS[func.__name__](x) if func.__name__ in _DIMS_OF_SPLITS else dims[0] if dims else 0
    asked = asked.tolist() if isinstance(asked, Tensor) else asked
    if isinstance(asked, int):
        _note_parts(watcher, x, outs, dim, asked)
    else:
        for position in asked:
            _note_positions(watcher, x, (slice(None),) * (dim % x.ndim) + (slice(position),))
    return outs


_DIMS_OF_SPLITS: dict[str, Callable[[Tensor], int]] = {
    "hsplit": lambda x: 1 if x.ndim > 1 else 0,
    "vsplit": lambda x: 0,
    "dsplit": lambda x: 2,
}


def _dim_of(watcher: SizeWatcher, tensor: Tensor, dim: int) -> Dim | None:
    node = watcher.node_of(tensor)
    return None if node is None else Dim(node, dim, plain(tensor.shape[dim]))


def _narrow(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
    out = func(*args, **kwargs)
    dim, start, length = (*args[1:], *kwargs.values())
    watcher.note(args[0], dim, start, prefix=True)
    watcher.note(out, dim, length)
    return out


def _select(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
    x, dim, index = *args, *kwargs.values()
    _note_positions(watcher, x, (slice(None),) * (dim % x.ndim) + (index,))
    return func(*args, **kwargs)


def _getitem(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
    return func(args[0], _indices(watcher, *args))


def _setitem(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
    return func(args[0], _indices(watcher, *args[:2]), args[2])


def _indices(watcher: SizeWatcher, tensor: Tensor, given: Any) -> Any:
    """The same with tensors in place of lists, of which torch would make such on ``meta``, without values."""
    index = given if isinstance(given, tuple) else (given,)
    if any(isinstance(i, slice | int) for i in index):
        _note_positions(watcher, tensor, index)
    made = tuple(_listed(i) if isinstance(i, list | tuple | range) else i for i in index)
    return made if isinstance(given, tuple) else made[0]


def _listed(numbers: Sequence[Any]) -> Any:
    """A tensor of integers or booleans, nested or not; other lists as they are."""
    if any(isinstance(i, Tensor) for i in numbers):
        return numbers
    array = np.array(numbers if len(numbers) else np.zeros(0, np.int64))
    return torch.from_numpy(array) if array.dtype.kind in "bi" else numbers


def _note_positions(watcher: SizeWatcher, tensor: Tensor, index: tuple) -> None:
    node = watcher.node_of(tensor)
    if node is None:
        return
    shape = node.meta["shape"]
    for dim, i in _indexed_dims(index, len(shape)):
        if isinstance(i, slice) and (i.start or 0) < (i.step or 1) != 1:
            continue  # a place within every period, wherever the tensor ends
        bounds = (i.start, i.stop) if isinstance(i, slice) else (i,)
        for bound in bounds:
            if isinstance(bound, int) and not isinstance(bound, bool) and plain(bound) not in (0, shape[dim]):
                watcher.log.uses.append(
                    SizeUse(node, dim, _position(bound, node, dim), *watcher.log.where(), prefix=True)
                )


def _position(bound: int, node: fx.Node, dim: int) -> Expr:
    if plain(bound) >= 0:
        return expr_of(bound)
    return BinOp("+", Dim(node, dim, node.meta["shape"][dim]), expr_of(bound))


def _indexed_dims(index: tuple, ndim: int) -> Iterator[tuple[int, Any]]:
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


def _layer_norm(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
    shape = args[1] if len(args) > 1 else kwargs["normalized_shape"]
    watcher.note_all(args[0], shape, args[0].ndim - len(shape))
    return func(*args, **kwargs)


def _attention(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
    """Without ``scale`` the scores are divided by the square root of the head width, as a number."""
    if kwargs.get("scale") is None:
        query = args[0] if args else kwargs["query"]
        node = watcher.node_of(query)
        if node is not None:
            watcher.log.number(Dim(node, query.ndim - 1, plain(query.shape[-1])))
    return func(*args, **kwargs)


def _numel(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
    sizes = _shape(watcher, Tensor.size, (args[0],), {})
    total: Any = 1
    for size in sizes:
        total = size * total if plain(size) != 1 else total
    return total


def _with_groups(position: int, name: str) -> Handler:
    def handler(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
        out = func(*args, **kwargs)
        groups = args[position] if len(args) > position else kwargs.get(name, 1)
        if plain(groups) > 1:
            watcher.note(out, name, groups)
        return out

    return handler


def _length(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
    """Python makes an integer of what ``len`` gives."""
    size = _shape(watcher, Tensor.size, (*args, 0), {})
    return size.number() if type(size) is Size else size


def _histogram(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
    out = func(*args, **kwargs)
    watcher.note(out, 0, args[1] if len(args) > 1 else kwargs.get("bins", 100))
    return out


def _new_tensor(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
    """``x.new_tensor(values)`` is ``torch.tensor`` with the type of ``x``."""
    x, values = args if len(args) > 1 else (args[0], kwargs["data"])
    return _literal(watcher, torch.tensor, (values,), {"dtype": kwargs.get("dtype", x.dtype)})


def _literal(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
    """``torch.tensor(values, device=...)`` keeps its values also where the model lives on ``meta``."""
    _number([*args, *kwargs.values()])
    if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "meta":
        kwargs = {**kwargs, "device": "cpu"}
    return func(*args, **kwargs)


def _device(watcher: SizeWatcher, func: Any, args: tuple, kwargs: dict) -> Any:
    """A program that asks where a tensor lives must not go another way because it is traced on ``meta``."""
    device = func(*args, **kwargs)
    return torch.device("cpu") if device.type == "meta" else device


def _methods(names: str, handler: Handler) -> dict[Any, Handler]:
    """The functions of torch, and the methods of tensors, of these names."""
    return {getattr(place, name): handler for name in names.split() for place in (torch, Tensor)}


def _handlers() -> dict[Any, Handler]:
    view = (
        Tensor.view,
        Tensor.reshape,
        torch.reshape,
        Tensor.expand,
        torch.broadcast_to,
        Tensor.broadcast_to,
        Tensor.sum_to_size,
    )
    factory = (Tensor.new_zeros, Tensor.new_ones, Tensor.new_empty, Tensor.new_full)
    table: dict[Any, Handler] = {
        Tensor.shape.__get__: _shape,  # type: ignore[attr-defined]
        Tensor.size: _shape,
        Tensor.device.__get__: _device,
        Tensor.__getitem__: _getitem,
        Tensor.__setitem__: _setitem,
        F.layer_norm: _layer_norm,
        torch.layer_norm: _layer_norm,
        F.rms_norm: _layer_norm,
        torch.rms_norm: _layer_norm,
        torch.group_norm: _with_groups(1, "num_groups"),
        **dict.fromkeys((torch.channel_shuffle, torch.native_channel_shuffle), _with_groups(1, "groups")),
        F.scaled_dot_product_attention: _attention,
        **dict.fromkeys((torch.histc, Tensor.histc), _histogram),
        **dict.fromkeys((Tensor.numel, torch.numel, Tensor.nelement), _numel),
        **dict.fromkeys((torch.tensor, torch.as_tensor, torch.scalar_tensor), _literal),
        Tensor.new_tensor: _new_tensor,
        Tensor.__len__: _length,
        **dict.fromkeys((Tensor.expand_as, Tensor.view_as, Tensor.reshape_as), _like_another),
        torch.broadcast_tensors: _broadcast,
        **dict.fromkeys((Tensor.select, torch.select), _select),
        F.one_hot: _one_hot,
        **{f: _with_groups(6, "groups") for f in (torch.conv1d, torch.conv2d, torch.conv3d)},
        **dict.fromkeys(view, _view),
        **dict.fromkeys((Tensor.unflatten, torch.unflatten), _unflatten),
        **dict.fromkeys((Tensor.repeat, Tensor.tile, torch.tile), _repeat),
        **dict.fromkeys((Tensor.repeat_interleave, torch.repeat_interleave), _repeat_interleave),
        **dict.fromkeys(factory, _factory),
        **dict.fromkeys((torch.zeros, torch.ones, torch.empty, torch.full), _made),
        **dict.fromkeys((torch.arange, torch.linspace, torch.eye), _counted),
        torch.lstm: _steps,
        **_methods("split split_with_sizes unsafe_split unsafe_split_with_sizes", _split),
        **_methods("chunk unsafe_chunk", _chunk),
        **_methods("tensor_split hsplit vsplit dsplit", _tensor_split),
        **dict.fromkeys((Tensor.narrow, torch.narrow), _narrow),
    }
    transposed = (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)
    return table | {f: _with_groups(6, "groups") for f in transposed}


HANDLERS = _handlers()
