"""Calls that multiply an input with a view of a parameter, and lookup of the parameter that a tensor is a view of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from graphprune.rules.matmul_view import MatmulView
from graphprune.rules.registry import matmul_views
from graphprune.utils.modules import named_tensors, tables
from graphprune.utils.operators import Args, Kwargs, is_mutable


@dataclass(frozen=True)
class ParameterView:
    """A tensor that is a view of the parameter or buffer ``name``.

    Attributes:
        size, stride: those of the tensor.
        offset: the place of its first entry: its distance in memory, in entries, from the parameter's first entry.
        copied: it is a view of this copy, and its places are those in the copy's memory; None: of the parameter itself.
    """

    name: str
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0
    copied: ParameterCopy | None = None

    @property
    def span(self) -> int:
        """One more than the last place of the view."""
        return self.offset + sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True)) + 1

    @property
    def parameter_span(self) -> int:
        """One more than the last place that it reads of the parameter's memory."""
        return self.span if self.copied is None else self.copied.source.parameter_span

    def places(self) -> Tensor:
        """The place of each entry in the parameter's memory. LongTensor of the view's size."""
        return self.of(torch.arange(self.parameter_span, device="cpu"))

    def of(self, memory: Tensor) -> Tensor:
        """The view, given the parameter's memory as a one-dimensional tensor."""
        whole = memory if self.copied is None else self.copied.of(memory)
        return whole.as_strided(self.size, self.stride, whole.storage_offset() + self.offset)


@dataclass(frozen=True)
class ParameterCopy:
    """A tensor in memory of its own whose entries are those of a view of a parameter, in another order or place.

    Attributes:
        source: the view.
        func, args: the call that makes it, and its arguments after the view.
        size, stride: those of the tensor.
    """

    source: ParameterView
    func: Any
    args: Args
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def whole(self) -> ParameterView:
        """The copy as a view of itself."""
        return ParameterView(self.source.name, self.size, self.stride, copied=self)

    def of(self, memory: Tensor) -> Tensor:
        """The memory of the copy, given the parameter's. Both are one-dimensional."""
        made = memory.new_zeros(self.whole.span)
        made.as_strided(self.size, self.stride).copy_(self.func(self.source.of(memory), *self.args))
        return made


def address(tensor: Tensor) -> int:
    """The address of a tensor's storage, which all its views share; 0 if it has none, as some zeros of torch."""
    stored = tensor.layout is torch.strided and not tensor._is_zerotensor()
    return tensor.untyped_storage().data_ptr() if stored else 0


def flat(tensor: Tensor) -> Tensor:
    """The memory of a parameter as a writable one-dimensional view."""
    whole = ParameterView("", tuple(tensor.shape), tensor.stride())
    return tensor.detach().as_strided((whole.span,), (1,), tensor.storage_offset())


def _kept_buffers(model: nn.Module) -> frozenset[str]:
    """The names of buffers of floats that are saved with a model: what is written to them is not lost."""
    own = tables(model)
    return frozenset(name for name, t in own.buffers.items() if t.is_floating_point() and own.is_saved(name))


class ParameterMemory:
    """Finds the parameter or buffer of a model that a tensor is a view of.

    Attributes:
        tensors: parameters and buffers by name.
        parameters: the names of parameters.
        weights: those of parameters and of buffers that may be weights: converters of other formats keep them so.
    """

    def __init__(self, model: nn.Module) -> None:
        self.tensors = {name: t for name, t in named_tensors(model) if t.numel()}
        self.parameters = frozenset(n for n, t in self.tensors.items() if isinstance(t, nn.Parameter))
        self.weights = self.parameters | _kept_buffers(model) & self.tensors.keys()
        self._at: dict[int, list[tuple[ParameterView, Tensor]]] = {}
        for name, tensor in self.tensors.items():
            if place := address(tensor):
                view = ParameterView(name, tuple(tensor.shape), tensor.stride())
                self._at.setdefault(place, []).append((view, tensor))

    def find(self, tensor: Tensor) -> ParameterView | None:
        """The tensor as a view of a parameter or buffer; None if it is no such view."""
        for whole, owner in self._at.get(address(tensor), ()):
            offset = int(tensor.storage_offset() - owner.storage_offset())
            view = ParameterView(whole.name, tuple(tensor.shape), tensor.stride(), offset)
            if tensor.dtype == owner.dtype and tensor.numel() and offset >= 0 and view.span <= whole.span:
                return view
        return None

    def owner(self, tensor: Tensor) -> str | None:
        """The name of a parameter or buffer that shares memory with a tensor, also one of another dtype or range."""
        return self.owner_at(address(tensor), tensor)

    def owner_at(self, place: int, tensor: Tensor) -> str | None:
        """The same for a tensor whose storage's address is known."""
        there = self._at.get(place)
        if there is None:
            return None
        found = self.find(tensor)
        return there[0][0].name if found is None else found.name

    def whole(self, name: str) -> ParameterView:
        """The view of an entire parameter."""
        tensor = self.tensors[name]
        return ParameterView(name, tuple(tensor.shape), tensor.stride())


def dense_places(slim: ParameterView, dense: ParameterView, kept: Sequence[tuple[int, Tensor]]) -> Tensor:
    """For every place in the memory of a slim parameter, the place of the same entry in that of the dense one.

    Args:
        slim, dense: the whole parameters.
        kept: pairs of a dimension and the indexes along it that the slim parameter keeps.
    """
    entries = dense.places()
    for dim, index in kept:
        entries = entries.index_select(dim, index)
    found = torch.full((slim.span,), -1, device="cpu")
    found[slim.places().flatten()] = entries.flatten()
    return found


PIECE = 2**24
"""The maximum number of im2col entries of a convolution's input in memory at once."""


@dataclass(frozen=True)
class CallKey:
    """Identifies a consumer: the view of a parameter that it multiplies, whatever product of matrices does it.

    Batches of one sample take other operations than larger ones (``addmm`` instead of ``mm`` and ``add``).

    Attributes:
        view: of a product of matrices, the weight as [blocks, channels, outputs]; of a convolution, the kernel.
        op: the operation; None: a product of matrices that makes a new tensor.
        matmul: which of the operation's operands is the weight: a number in its ``matmul_views``.
        blocks: groups of a convolution, matrices of a batched product.
    """

    view: ParameterView
    op: Any
    matmul: int
    blocks: int
    transposed: bool

    @property
    def name(self) -> str:
        return self.view.name


@dataclass(frozen=True)
class LinearCall:
    """One call of a consumer; ``op`` is its operation."""

    key: CallKey
    op: Any
    matmul: MatmulView
    args: Args
    kwargs: Kwargs
    bias: Tensor | None
    scaled: bool

    def inputs(self, entries: int | None = None) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
        """The input as [n, blocks, channels, m], in pieces where every tap of a kernel becomes a channel.

        Args:
            entries: of a piece; None: all without a kernel, ``PIECE`` with one.

        Yields:
            The place of the piece along the four dimensions, and the piece.
        """
        weight = self.args[self.matmul.weight]
        if self.taps == 1:
            whole = self.matmul.open(self.x, weight, self.args, self.key.blocks)[0]
            yield from _pieces(whole, whole.numel() if entries is None else entries)
            return
        count = max(1, (PIECE if entries is None else entries) // max(self.x[:1].numel() * self.taps, 1))
        for start in range(0, self.x.shape[0], count):
            piece = slice(start, start + count)
            yield (piece,), self.matmul.open(self.x[piece], weight, self.args, self.key.blocks)[0]

    @property
    def taps(self) -> int:
        """The positions of the kernel."""
        return self.matmul.positions(self.key.view.size)

    def of_samples(self, samples: slice) -> LinearCall:
        """The call of a convolution for some of its samples."""
        x = self.matmul.x
        return replace(self, args=tuple(a[samples] if i == x else a for i, a in enumerate(self.args)))

    def places(self) -> Tensor:
        """The place of each entry of the weight in the parameter's memory. [blocks, channels, outputs]"""
        if self.matmul.kernel is None:
            return self.key.view.places()
        places = self.key.view.places().to(self.x.device)
        return self.matmul.open(self.x[:1], places, self.args, self.key.blocks)[1].cpu()

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The blocks, channels and outputs of the weight."""
        return self.key.view.size if self.matmul.kernel is None else tuple(self.places().shape)

    def light(self) -> LinearCall:
        """The call without its tensors except one sample of the input, which :meth:`places` needs."""
        x = self.matmul.x
        args = (a[:1].clone() if i == x else None if isinstance(a, Tensor) else a for i, a in enumerate(self.args))
        return replace(self, args=tuple(args), bias=None)

    def copied(self) -> LinearCall:
        """The call with a copy of its input, which the model may overwrite later."""
        x = self.matmul.x
        return replace(self, args=tuple(a.clone() if i == x else a for i, a in enumerate(self.args)))

    def with_input(self, x: Tensor) -> LinearCall:
        """The call with another input."""
        return replace(self, args=tuple(x if i == self.matmul.x else a for i, a in enumerate(self.args)))

    def again(self) -> Tensor:
        """What the call gives with the weight and bias of now."""
        made: Tensor = self.op(*self.args, **self.kwargs)
        return made

    @property
    def x(self) -> Tensor:
        found: Tensor = self.args[self.matmul.x]
        return found

    def result(self, y: Tensor, bare: bool = False) -> Tensor:
        """The result ``y`` of the call as [n, blocks, outputs, m]; ``bare``: without the bias that the call added."""
        assert self.matmul.result is not None
        opened = self.matmul.result(y, self.key.blocks)
        return opened - self.bias.reshape(1, *opened.shape[1:3], 1) if bare and self.bias is not None else opened


def _pieces(x: Tensor, entries: int) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    """An input [n, blocks, channels, m] in pieces of at most so many entries, or of one row."""
    dim = 3 if x.shape[0] == 1 else 0
    step = max(1, entries * x.shape[dim] // max(x.numel(), 1))
    for start in range(0, max(x.shape[dim], 1), step):
        place = (*[slice(None)] * dim, slice(start, start + step))
        yield place, x[place]


class FindsParameters(Protocol):
    """Tells what tensors are views of."""

    def find(self, tensor: Tensor) -> ParameterView | None:
        """The tensor as a view of a parameter or buffer; None if it is no such view."""


def linear_call(
    func: Any, args: Args, kwargs: Kwargs, memory: FindsParameters, names: frozenset[str]
) -> LinearCall | None:
    """The call as one of a consumer; None where no operand is a view of one of the parameters ``names``."""
    for number, matmul in enumerate(matmul_views(func)):
        weight = args[matmul.weight]
        view = memory.find(weight)
        if view is not None and view.name in names and weight.is_floating_point():
            key = _key(func, args, number, matmul, view)
            bias = args[matmul.bias] if matmul.intercept(args) else None  # type: ignore[index]
            scaled = any(kwargs.get(factor, 1) != 1 for factor in ("alpha", "beta"))
            return LinearCall(key, func, matmul.exact(args), args, kwargs, bias, scaled)
    return None


def _key(func: Any, args: Args, number: int, matmul: MatmulView, view: ParameterView) -> CallKey:
    """The key of a call whose weight is this view of a parameter."""
    blocks, weight = matmul.blocks(args), args[matmul.weight]
    if matmul.kernel is not None:
        return CallKey(view, func, number, blocks, matmul.transposed(args))
    opened = matmul.open(args[matmul.x][:1], weight, args, blocks)[1]
    offset = view.offset + int(opened.storage_offset() - weight.storage_offset())
    opened_view = replace(view, size=tuple(opened.shape), stride=opened.stride(), offset=offset)
    return CallKey(opened_view, func if is_mutable(func) else None, number, blocks, False)
