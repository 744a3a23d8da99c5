"""Random numbers that a forward pass draws: the slim model gets the surviving entries of the dense model's draws.

Draws are matched by their number in the order of execution. An operation that draws by what it reads
(``multinomial``, ``bernoulli`` of probabilities) gets the dense draw only if it reads the same values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphprune.pruning.float64 import Widen
from graphprune.tracing.meta import is_float
from graphprune.utils.operators import Args, Kwargs, is_random
from graphprune.utils.tree import tensors_of

SAME_VALUES = 1e-9
"""The relative difference up to which two operations read the same values."""


@dataclass(frozen=True)
class Draw:
    """What one random operation of the dense model read and returned, the surviving entries only.

    Attributes:
        operation: the packet of overloads that drew.
        read: the tensors whose values the draw depends on, each flattened.
        drawn: the tensors that were returned, each flattened.
    """

    operation: Any
    read: tuple[Tensor, ...]
    drawn: tuple[Tensor, ...]

    def fits(self, operation: Any, read: Sequence[Tensor], drawn: Sequence[Tensor]) -> bool:
        """Does an operation of the slim model read the same and return as many entries?"""
        if operation is not self.operation or len(read) != len(self.read) or len(drawn) != len(self.drawn):
            return False
        same_sizes = all(
            a.numel() == b.numel() for a, b in zip((*self.read, *self.drawn), (*read, *drawn), strict=True)
        )
        return same_sizes and all(_equal(a, b.flatten()) for a, b in zip(self.read, read, strict=True))


def _equal(expected: Tensor, found: Tensor) -> bool:
    if not is_float(expected):
        return torch.equal(expected, found)
    return torch.allclose(expected, found.to(expected.dtype), rtol=SAME_VALUES, atol=SAME_VALUES, equal_nan=True)


def values_read(func: Any, args: Args, kwargs: Kwargs) -> list[Any]:
    """The arguments on whose values a draw depends: not what is overwritten, nor what only gives a shape."""
    written = {i for i, a in enumerate(func._schema.arguments) if a.alias_info is not None and a.alias_info.is_write}
    only_shape = {0} if func.overloadpacket.__name__.endswith("_like") else written
    return [*(value for i, value in enumerate(args) if i not in only_shape), *kwargs.values()]


def draw_of(func: Any, args: Args, kwargs: Kwargs, drawn: Any, survivors: Callable[[int, Tensor], Tensor]) -> Draw:
    """Note a draw of the dense model.

    Args:
        func, args, kwargs: the call, with tensors.
        drawn: what it returned.
        survivors: the surviving entries of a tensor, flattened, by its number: of those read, then of those drawn.
    """
    read = list(tensors_of(values_read(func, args, kwargs)))
    both = [survivors(i, t).clone() for i, t in enumerate((*read, *tensors_of(drawn)))]
    return Draw(func.overloadpacket, tuple(both[: len(read)]), tuple(both[len(read) :]))


class DrawsReplayed(Widen):
    """Run a slim model in float64 with the surviving entries of the dense model's draws."""

    def __init__(self, draws: Sequence[Draw]) -> None:
        super().__init__()
        self.left = list(draws)

    def __torch_dispatch__(self, func: Any, types: Any, args: Args = (), kwargs: Kwargs | None = None) -> Any:
        if not (self.left and is_random(func)):
            return super().__torch_dispatch__(func, types, args, kwargs)
        draw, *self.left = self.left
        read = [t.clone() for t in tensors_of(values_read(func, args, kwargs or {}))]
        own = super().__torch_dispatch__(func, types, args, kwargs)
        drawn = list(tensors_of(own))
        if draw.fits(func.overloadpacket, read, drawn):
            for tensor, values in zip(drawn, draw.drawn, strict=True):
                tensor.copy_(values.view(tensor.shape))
        return own
