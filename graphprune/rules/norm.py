"""Where a normalization has its statistics and factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphprune.utils.operators import Args, Kwargs, argument_of


@dataclass(frozen=True)
class Norm:
    """The positions of a normalization's arguments; None: there is no such argument.

    Argument 0 is the input ``x``, and the first result is what becomes of it. Two things are assumed of an operation
    that has ``mean`` and ``variance`` (running statistics, vectors along dimension ``channels`` of ``x``). In
    evaluation it returns ``(x - mean) / sqrt(variance + eps) * weight + bias`` and writes to no argument, ``variance``
    being the unbiased one, as torch keeps it. With ``training`` true it uses the mean and the biased variance of ``x``
    over all other dimensions instead, and writes at most to ``mean`` and ``variance``; without a position for
    ``training`` it always uses those that it is given. Of an operation without running statistics (a layer
    normalization) it is only assumed that it multiplies with ``weight`` and adds ``bias``.

    Attributes:
        weight, bias: factors and summands of the channels; the call may leave them out (None).
        mean, variance: running statistics; the call may leave them out (None).
        training: whether statistics of the input are used.
        eps: what is added to the variance; None: nothing is.
        channels: the dimension of ``x`` that the vectors lie along.
    """

    weight: int | None = None
    bias: int | None = None
    mean: int | None = None
    variance: int | None = None
    training: int | None = None
    eps: int | None = None
    channels: int = 1

    @property
    def positions(self) -> tuple[int, ...]:
        """All positions that there are."""
        found = (self.weight, self.bias, self.mean, self.variance, self.training, self.eps)
        return tuple(position for position in found if position is not None)


@dataclass(frozen=True)
class NormCall:
    """One call of a normalization; its arguments are tensors, or nodes of a graph."""

    norm: Norm
    op: Any
    args: Sequence[Any]
    kwargs: Mapping[str, Any]

    def _read(self, position: int | None, absent: Any = None) -> Any:
        return absent if position is None else argument_of(self.op, self.args, self.kwargs, position)

    @property
    def x(self) -> Any:
        return self._read(0)

    @property
    def weight(self) -> Any:
        return self._read(self.norm.weight)

    @property
    def bias(self) -> Any:
        return self._read(self.norm.bias)

    @property
    def mean(self) -> Any:
        return self._read(self.norm.mean)

    @property
    def variance(self) -> Any:
        return self._read(self.norm.variance)

    @property
    def eps(self) -> Any:
        return self._read(self.norm.eps, 0.0)

    @property
    def uses_running_statistics(self) -> bool:
        """Does it normalize with a mean and a variance that are handed to it?"""
        return self.mean is not None and self.variance is not None and not self._read(self.norm.training)

    @property
    def channels(self) -> int:
        """The dimension of the input that the vectors lie along, counted from the first."""
        found: int = self.norm.channels % self.x.ndim
        return found

    @property
    def other_dims(self) -> list[int]:
        """The dimensions of the input that statistics are taken over."""
        return [d for d in range(self.x.ndim) if d != self.channels]

    def scale(self) -> Tensor:
        """What entries are multiplied with where running statistics are used, in the rank of the input."""
        scale = torch.rsqrt(self.variance + self.eps)
        scale = scale if self.weight is None else self.weight * scale
        return scale.view([-1 if d == self.channels else 1 for d in range(self.x.ndim)])

    def with_batch_statistics(self) -> tuple[Args, Kwargs]:
        """The arguments of a call that normalizes with the statistics of its input, and leaves the running ones."""
        if self.norm.training is not None:
            return self._with({self.norm.training: True}, self.mean.clone(), self.variance.clone())
        variance, mean = torch.var_mean(self.x, self.other_dims, correction=0)
        return self.with_statistics(mean, variance)

    def with_statistics(self, mean: Tensor, variance: Tensor) -> tuple[Args, Kwargs]:
        """The arguments of a call that normalizes with these vectors in place of the running statistics."""
        return self._with({}, mean.to(self.mean), variance.to(self.variance))

    def _with(self, others: Mapping[int | None, Any], mean: Tensor, variance: Tensor) -> tuple[Args, Kwargs]:
        """The arguments of a call with other statistics, and other arguments at their positions."""
        new: dict[int | None, Any] = {**others, self.norm.mean: mean, self.norm.variance: variance}
        args = tuple(new.pop(i, value) for i, value in enumerate(self.args))
        names = {self.op._schema.arguments[i].name: value for i, value in new.items()}
        return args, {**self.kwargs, **names}
