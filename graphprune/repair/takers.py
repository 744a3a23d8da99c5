"""What is added to the result of a consumer, and so can take an intercept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphprune.repair.calls import Contact
from graphprune.repair.memory import Memory, View

aten = torch.ops.aten
_SUMS = (aten.add.Tensor, aten.add_.Tensor)
_MEAN = 3
"""At which argument a batch norm has the running mean."""


@dataclass(frozen=True)
class Taker:
    """A bias, or (``sign`` -1) the running mean that a batch norm subtracts.

    Attributes:
        dim: the dimension of the tensor that it is added to which it is laid along.
    """

    view: View
    sign: int
    dim: int


@dataclass(frozen=True)
class Addition:
    """A call that adds a taker's tensor to another one."""

    to: Tensor
    added: Tensor
    taker: Taker


def addition(
    func: Any, args: tuple, kwargs: Mapping[str, Any], memory: Memory, names: frozenset[str]
) -> Addition | None:
    """The call as one that adds a vector of the model: a parameter of ``names``, or a batch norm's running mean."""
    if func is aten.native_batch_norm.default and args[_MEAN] is not None:
        view = memory.find(args[_MEAN])
        return Addition(args[0], args[_MEAN], Taker(view, -1, 1)) if view else None
    if func in _SUMS and kwargs.get("alpha", 1) == 1:
        for to, added in (args[:2], args[1::-1]):
            view = memory.find(added) if isinstance(added, Tensor) and added.ndim == 1 else None
            if view is not None and view.name in names and to.ndim > 1:
                return Addition(to, added, Taker(view, 1, -1))
    return None


def own_bias(met: Contact, outputs: int, memory: Memory, names: frozenset[str]) -> Taker | None:
    """The bias that the call of a consumer adds itself, if it is a parameter with an entry for each output."""
    view = None if met.bias is None or met.bias.numel() != outputs else memory.find(met.bias)
    return Taker(view, 1, 0) if view is not None and view.name in names else None


def goes_straight(met: Contact, result: tuple[int, ...], outputs: int, sum_: Addition) -> bool:
    """Is a vector added to the result of a consumer, one entry to each output?"""
    to = sum_.to
    if met.key.form or sum_.added.numel() != outputs or to.shape[sum_.taker.dim] != outputs:
        return False
    if sum_.taker.dim == 1:
        return tuple(to.shape) == result
    flat_rows = met.key.op is not aten.convolution.default and met.key.blocks == 1
    return flat_rows and to.is_contiguous() and to.numel() == torch.Size(result).numel()
