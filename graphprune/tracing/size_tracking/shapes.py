"""Sizes that are given for dimensions: of views, copies and new tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from graphprune.tracing.size_tracking.numbers import new_tensor, number
from graphprune.tracing.size_tracking.parts import note_equal, note_positions
from graphprune.tracing.size_tracking.reading import dim_of, numel, shape
from graphprune.tracing.size_tracking.watcher import Handler, SizeWatcher, named
from graphprune.tracing.sizes import Const, Ratio, Size, SizeUse, plain
from graphprune.utils.evaluation import without_onednn
from graphprune.utils.operators import Args, Kwargs
from graphprune.utils.tree import tensors_of


def _flat(sizes: Sequence[Any]) -> Sequence[Any]:
    return sizes[0] if sizes and isinstance(sizes[0], tuple | list) else sizes


def view(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    out = func(*args, **kwargs)
    sizes = _flat([*args[1:], *kwargs.values()])
    if sizes and isinstance(sizes[0], int):
        watcher.note_all(out, sizes)
    return out


def like_another(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """``x.expand_as(y)`` has the sizes of ``y``, whatever becomes of ``x``."""
    out = func(*args, **kwargs)
    watcher.note_all(out, shape(watcher, Tensor.size, (args[1] if len(args) > 1 else kwargs["other"],), {}))
    return out


def broadcast(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """All results have the same sizes."""
    outs = func(*args, **kwargs)
    for dim in range(outs[0].ndim):
        note_equal(watcher, [found for out in outs if (found := dim_of(watcher, out, dim))])
    return outs


def unflatten(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    out = func(*args, **kwargs)
    given = named("input dim sizes", args, kwargs)
    watcher.note_all(out, given["sizes"], given["dim"] % args[0].ndim)
    return out


def repeat(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """``x.repeat(1, heads, 1)``; ``tile`` may be given fewer numbers than there are dimensions."""
    out = func(*args, **kwargs)
    counts = _flat([*args[1:], *kwargs.values()])
    for dim, count in zip(range(-len(counts), 0), counts, strict=True):
        _note_copies(watcher, out, args[0], dim, count)
    return out


def repeat_interleave(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """Without a dimension all entries are laid one behind another; counts in a tensor say nothing."""
    out = func(*args, **kwargs)
    given = named("input repeats dim", args, kwargs)
    x, dim = given.get("input"), given.get("dim")
    if x is not None and isinstance(count := given.get("repeats"), int):
        if dim is None:
            watcher.note(out, 0, numel(watcher, func, (x,), {}) * count)
        elif type(count) is int and count > 1 and x.shape[dim] > 1:
            _note_neighbors(watcher, out, dim % x.ndim + 1, count)
        else:
            _note_copies(watcher, out, x, dim if dim < 0 else dim - x.ndim, count)
    return out


def _note_neighbors(watcher: SizeWatcher, out: Tensor, dim: int, count: int) -> None:
    """Every entry was repeated ``count`` times along a dimension of its own, before that was merged with the last."""
    node = watcher.node_of(out)
    while node is not None and node.target is not torch.ops.aten.expand.default:
        node = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
    if node is not None:
        watcher.log.uses.append(SizeUse(node, dim, Const(count), *watcher.log.where()))


def _note_copies(watcher: SizeWatcher, out: Tensor, x: Tensor, dim: int, count: int) -> None:
    """A dimension, counted from the last one, is ``count`` times as long as that of ``x``."""
    size = shape(watcher, Tensor.size, (x,), {})[dim] if -dim <= x.ndim else 1
    if plain(count) > 1:
        watcher.note(out, dim, count if plain(size) == 1 else size * count)


def factory(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    return _filled(watcher, func(*args, **kwargs), args[1:], kwargs)


def made(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """``torch.zeros(2, width)``; a size may be a tensor, and says nothing then."""
    return _filled(watcher, func(*args, **kwargs), args, kwargs)


def _filled(watcher: SizeWatcher, out: Any, args: Args, kwargs: Kwargs) -> Any:
    """Sizes come first, as one argument or several; what comes after one argument is what the tensor is filled with."""
    watcher.note_all(out, _flat(args or [kwargs.get("size", ())]))
    number([*(args[1:] if args and isinstance(args[0], tuple | list) else ()), kwargs.get("fill_value")])
    return out


def normal(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """``torch.normal(mean, std, size)``; without a size it has that of the tensors among the first two."""
    out = func(*args, **kwargs)
    number([*args[:2], kwargs.get("mean"), kwargs.get("std")])
    watcher.note_all(out, args[2] if len(args) > 2 else kwargs.get("size", ()))
    return out


def new(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """The old ``x.new(2, width)`` is ``x.new_empty``; ``x.new([2.0, 3.0])`` is ``x.new_tensor``."""
    if len(args) > 1 and type(args[1]) in (tuple, list):
        return new_tensor(watcher, func, args, kwargs)
    return factory(watcher, func, args, kwargs)


def one_hot(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    out = func(*args, **kwargs)
    watcher.note_all(out, [args[1] if len(args) > 1 else kwargs.get("num_classes", -1)], out.ndim - 1)
    return out


def histogram(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    out = func(*args, **kwargs)
    watcher.note(out, 0, args[1] if len(args) > 1 else kwargs.get("bins", 100))
    return out


def counted(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """``torch.arange(n)`` and ``torch.eye(n)`` are as long as ``n`` says; in any other form a size is a number."""
    out = func(*args, **kwargs)
    numbers = [a for a in (*args, *kwargs.values()) if type(a) in (Size, Ratio)]
    given = (*args, *(value for name, value in kwargs.items() if name in _COUNTS))
    if func is torch.eye and len(given) == 1:
        watcher.note_all(out, [given[0], given[0]])
    elif func is torch.arange and len(given) == 1 and len(numbers) == 1 and type(given[0]) is Size:
        watcher.note(out, 0, given[0])
    else:
        number(numbers)
    return out


_COUNTS = frozenset(("n", "m", "start", "end", "step"))
"""Arguments of ``torch.eye`` and ``torch.arange`` that are numbers."""


def affine_grid(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """Of the images that the grid is for only height and width matter."""
    number(list(named("theta size", args, kwargs)["size"])[2:])
    return func(*args, **kwargs)


def normalized_shape(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    shape = args[1] if len(args) > 1 else kwargs["normalized_shape"]
    watcher.note_all(args[0], shape, args[0].ndim - len(shape))
    return func(*args, **kwargs)


def with_groups(position: int, name: str) -> Handler:
    def handler(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
        out = func(*args, **kwargs)
        groups = args[position] if len(args) > position else kwargs.get(name, 1)
        if plain(groups) > 1:
            watcher.note(out, name, groups)
        return out

    return handler


def sparse_product(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """``torch.sparse.mm`` is ``torch.mm``, but for zeros that torch makes first, whose sizes no code shows."""
    return torch.mm(*args) if len(args) == 2 and not kwargs else func(*args, **kwargs)


def cell(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """One step of a recurrent network: torch asks for as many old states as new ones."""
    out = func(*args, **kwargs)
    given = named("input hx w_ih", args, kwargs)
    sizes = dim_of(watcher, given["hx"], given["hx"].ndim - 1), dim_of(watcher, given["w_ih"], 0)
    note_equal(watcher, [size for size in sizes if size])
    return out


def steps(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """A recurrent layer is traced as its steps, also where the processor has it as one call."""
    with without_onednn():
        out = func(*args, **kwargs)
    _mark_states(watcher, (args[1:3], kwargs.get("hx"), out[1:]))
    return out


def _mark_states(watcher: SizeWatcher, values: Any) -> None:
    """Mark what makes the states of all layers and directions, [layers and directions, batch, width]."""
    for tensor in tensors_of(values):
        node = watcher.node_of(tensor) if tensor.ndim == 3 else None
        if node is not None:
            node.meta["states"] = True


def padded(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """Packed sequences side by side again: torch makes a tensor for them that is as wide as they are."""
    out = func(*args, **kwargs)
    _note_widths(watcher, out[0], args[0])
    return out


def padded_sequences(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """Sequences side by side: torch makes a tensor for them that is as wide as the first."""
    out = func(*args, **kwargs)
    sequences = list(args[0] if args else kwargs["sequences"])
    _note_widths(watcher, out, sequences[0])
    return out


def _note_widths(watcher: SizeWatcher, out: Tensor, steps: Tensor) -> None:
    """The tensor that torch made for the steps of several sequences has their sizes in all dimensions but the first."""
    node = watcher.node_of(out)
    while node is not None and node.target is not torch.ops.aten.full.default:
        node = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
    for dim in range(1, steps.ndim):
        size = dim_of(watcher, steps, dim)
        if node is not None and size is not None:
            watcher.log.uses.append(SizeUse(node, dim + 1, size, *watcher.log.where()))


def pad(watcher: SizeWatcher, func: Any, args: Args, kwargs: Kwargs) -> Any:
    """``F.pad``. Circular padding copies as many entries from either end as it is told to; so many zeros are added."""
    given = named("input pad mode value", args, kwargs)
    x, widths = given["input"], given["pad"]
    if given.get("mode") == "circular":
        _note_copied_ends(watcher, x, widths)
    out = func(*args, **kwargs)
    sized = any(type(width) is Size for width in widths)
    if sized and given.get("mode", "constant") == "constant" and not given.get("value"):
        _note_added(watcher, out, x, widths)
    else:
        number(widths)
    return out


def _note_copied_ends(watcher: SizeWatcher, x: Tensor, widths: Sequence[int]) -> None:
    for i, width in enumerate(widths):
        outer = (slice(None),) * (x.ndim - 1 - i // 2)
        if width > 0:
            note_positions(watcher, x, (*outer, slice(plain(width)) if i % 2 else slice(-plain(width), None)))


def _note_added(watcher: SizeWatcher, out: Tensor, x: Tensor, widths: Sequence[int]) -> None:
    """So many entries are before and behind those of ``x``."""
    for i, (left, right) in enumerate(zip(widths[::2], widths[1::2], strict=True)):
        dim = x.ndim - 1 - i
        if min(plain(left), plain(right)) < 0:
            number([left, right])
        elif added := [width for width in (left, right) if plain(width)]:
            watcher.note(out, dim, sum(added, shape(watcher, Tensor.size, (x,), {})[dim]))
            if plain(left):
                watcher.note(out, dim, left, prefix=True)
