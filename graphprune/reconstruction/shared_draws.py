"""Both models are given the same random numbers, where a forward pass draws some even in evaluation mode.

A sampled code, noise that is added, or dropout that is always on would else differ between the dense model and the slim
one, and repair would fit weights to the difference. Passes that wait for each other take turns, so that each has a
state of the generators of its own; those of the same batch begin with the same. What is drawn for channels, of which
the models have different numbers, cannot be the same: dropout and normal noise of this kind are left out of both, that
is, replaced by their means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from graphprune.reconstruction.executed_call import ExecutedCall
from graphprune.utils.operators import Args, Kwargs, is_random
from graphprune.utils.random_state import random_numbers_kept
from graphprune.utils.tree import tensors_of

aten = torch.ops.aten

Drawn = tuple[str, tuple[int, ...]]
"""The operation that drew, and the shape of what it returned; an operation of the user's own may return nothing."""


def drawn_by(call: ExecutedCall) -> Drawn | None:
    """What a call draws at random; None: nothing."""
    if not is_random(call.func):
        return None
    return call.func.name(), tuple(call.results[0].shape) if call.results else ()


def unlike(dense: Sequence[Drawn], slim: Sequence[Drawn]) -> frozenset[int]:
    """The numbers of the draws that two models make of different sizes."""
    return frozenset(n for n, (one, other) in enumerate(zip(dense, slim, strict=False)) if one != other)


class AveragedDraws:
    """Makes the calls of a pass, and replaces what some of them draw by the mean.

    The generators go on after such a call as if it had drawn nothing, so that later draws are the same in both models.

    Args:
        numbers: which of the calls that draw, in order of execution.
    """

    def __init__(self, numbers: frozenset[int]) -> None:
        self._numbers = numbers
        self._met = 0

    def call(self, func: Any, args: Args, kwargs: Kwargs) -> Any:
        """What a call returns."""
        if not self._numbers or not is_random(func):
            return func(*args, **kwargs)
        self._met += 1
        if self._met - 1 not in self._numbers:
            return func(*args, **kwargs)
        with random_numbers_kept(), _kept(kwargs.get("generator")):
            out = func(*args, **kwargs)
        mean = _MEANS.get(func)
        for tensor, value in zip(tensors_of(out), mean(args) if mean else (), strict=False):
            tensor.copy_(value) if isinstance(value, Tensor) else tensor.fill_(value)
        return out


@contextmanager
def _kept(generator: torch.Generator | None) -> Iterator[None]:
    state = None if generator is None else generator.get_state()
    yield
    if generator is not None and state is not None:
        generator.set_state(state)


Means = tuple[Tensor | float, ...]
"""A mean for each result of a call."""


def _zero(args: Args) -> Means:
    return (0.0,)


def _first(args: Args) -> Means:
    return (args[0],)


def _second_or(default: float) -> Callable[[Args], Means]:
    return lambda args: (args[1] if len(args) > 1 else default,)


_MEANS: Mapping[Any, Callable[[Args], Means]] = {
    **dict.fromkeys((aten.randn.default, aten.randn.generator, aten.randn_like.default), _zero),
    **dict.fromkeys((aten.normal.float_float, aten.normal.float_Tensor, aten.bernoulli.default), _first),
    **dict.fromkeys((aten.normal.Tensor_float, aten.normal.Tensor_Tensor), _first),
    **dict.fromkeys((aten.bernoulli_.float, aten.bernoulli_.Tensor, aten.bernoulli.p), _second_or(0.5)),
    aten.normal_.default: _second_or(0.0),
    aten.native_dropout.default: lambda args: (args[0], 1.0),
}
