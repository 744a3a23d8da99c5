"""Calls in which a weight that is a view of a parameter meets an input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from graphprune.contractions import FORMS, Form, exact
from graphprune.repair.memory import Memory, View

aten = torch.ops.aten
PIECE = 2**24
"""At most so many entries of a convolution's input are laid out at once, each once for every tap that sees it."""


@dataclass(frozen=True)
class Key:
    """What calls of the same consumer have in common: the operation, and the part of a parameter that it multiplies.

    Attributes:
        form: which of the operation's operands is the weight: a number in ``FORMS``.
        blocks: groups of a convolution, matrices of a batched product.
    """

    view: View
    op: Any
    form: int
    blocks: int
    transposed: bool

    @property
    def name(self) -> str:
        return self.view.name


@dataclass(frozen=True)
class Contact:
    """One call of a consumer."""

    key: Key
    form: Form
    args: tuple
    bias: Tensor | None
    scaled: bool

    def inputs(self) -> Iterator[tuple[slice, Tensor]]:
        """The input as [n, blocks, channels, m], in pieces where every tap of a kernel becomes a channel."""
        taps = prod(self.key.view.size[2:]) if self.key.op is aten.convolution.default else 1
        count = self.x.shape[0] if taps == 1 else max(1, PIECE // max(self.x[:1].numel() * taps, 1))
        weight = self.args[self.form.weight]
        for start in range(0, self.x.shape[0], max(count, 1)) if taps > 1 else (0,):
            piece = slice(start, start + count) if taps > 1 else slice(None)
            yield piece, self.form.open(self.x[piece], weight, self.args, self.key.blocks)[0]

    def places(self) -> Tensor:
        """Where each entry of the weight lies in the parameter. [blocks, channels, outputs]"""
        places = self.key.view.places().to(self.x.device)
        return self.form.open(self.x[:1], places, self.args, self.key.blocks)[1].cpu()

    def light(self) -> Contact:
        """The call without its tensors, but for a little of the input: all that :meth:`places` needs."""
        x = self.form.x
        args = (a[:1].clone() if i == x else None if isinstance(a, Tensor) else a for i, a in enumerate(self.args))
        return replace(self, args=tuple(args), bias=None)

    def copied(self) -> Contact:
        """The call with a copy of its input, which may be written to afterwards."""
        x = self.form.x
        return replace(self, args=tuple(a.clone() if i == x else a for i, a in enumerate(self.args)))

    @property
    def x(self) -> Tensor:
        found: Tensor = self.args[self.form.x]
        return found

    def result(self, y: Tensor, bare: bool = False) -> Tensor:
        """What the call returned, [n, blocks, outputs, m]; ``bare``: less the bias that it added itself."""
        assert self.form.result is not None
        opened = self.form.result(y, self.key.blocks)
        return opened - self.bias.reshape(1, *opened.shape[1:3], 1) if bare and self.bias is not None else opened


def contact(func: Any, args: tuple, kwargs: dict, memory: Memory, names: frozenset[str]) -> Contact | None:
    """The call as one of a consumer; None where no operand is a view of one of the parameters ``names``."""
    for number, form in enumerate(FORMS.get(func, ())):
        weight = args[form.weight]
        view = memory.find(weight)
        if view is not None and view.name in names and weight.is_floating_point():
            transposed = func is aten.convolution.default and bool(args[6])
            key = Key(view, func, number, _blocks(func, args, weight), transposed)
            bias = args[form.bias] if form.intercept(args) else None  # type: ignore[index]
            scaled = any(kwargs.get(factor, 1) != 1 for factor in ("alpha", "beta"))
            return Contact(key, exact(form, args), args, bias, scaled)
    return None


def _blocks(func: Any, args: tuple, weight: Tensor) -> int:
    if func is aten.convolution.default:
        return int(args[8])
    return weight.shape[0] if weight.ndim == 3 and weight.stride(0) else 1
