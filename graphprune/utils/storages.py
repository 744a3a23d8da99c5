"""Which tensors have the same memory."""

from __future__ import annotations

from torch import Tensor


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


def _entries(tensor: Tensor) -> tuple[object, ...]:
    return tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset()
