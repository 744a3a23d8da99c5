"""Which tensors have the same memory, and what it held."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from graphprune.utils.equality import same_values


def storage_of(tensor: Tensor) -> int:
    """What tells storages apart; 0 for tensors without one of their own: sparse, batched, nested ones."""
    try:
        return tensor.untyped_storage()._cdata  # type: ignore[no-any-return]
    except NotImplementedError:
        return 0


def shares_all(one: Tensor, other: Tensor) -> bool:
    """Are two tensors views of the same entries of the same memory?"""
    if storage_of(one) == 0 or storage_of(one) != storage_of(other):
        return False
    return _entries(one) == _entries(other)


class TensorState(NamedTuple):
    """What a tensor was: its memory, and the values there."""

    tensor: Tensor
    memory: Tensor
    values: Tensor

    @staticmethod
    def of(tensor: Tensor) -> TensorState:
        """What a tensor is now."""
        return TensorState(tensor, tensor.detach(), tensor.detach().clone())

    @torch.no_grad()
    def put_back(self) -> None:
        """Give it its memory back, if it was given other memory (``tensor.data = other``), and the values there."""
        if self.tensor.layout is not torch.strided or not self.tensor.is_set_to(self.memory):
            self.tensor.data = self.memory
        if not same_values(self.memory, self.values):
            self.memory.copy_(self.values)


def _entries(tensor: Tensor) -> tuple[object, ...]:
    return tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset()
