"""Which tensors are the same, where no operation says so.

Not every way to a tensor passes the dispatcher: ``as_subclass``, ``nn.Parameter(y)`` and ``from_numpy(y.numpy())`` give
the same elements to an object that no operation returned; ``z.data = y`` gives other elements to one that did.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

import torch
from torch import Tensor


class Aliases:
    """The tensor that was seen last of each place and layout in memory. They must be kept alive elsewhere."""

    def __init__(self, tensors: Iterable[Tensor] = ()) -> None:
        self._last: dict[Hashable, Tensor] = {}
        self._storages: dict[int, int] = {}
        for tensor in tensors:
            self.add(tensor)

    def add(self, tensor: Tensor) -> None:
        """A tensor is seen."""
        self._last[_place(tensor)] = tensor
        self._storages[id(tensor)] = _storage(tensor)

    def moved(self, tensor: Tensor) -> bool:
        """Was the tensor given other memory since it was seen last?"""
        return self._storages.get(id(tensor), 0) != _storage(tensor)

    def find(self, tensor: Tensor) -> Tensor | None:
        """The tensor seen last that has the same elements; None: there is no other."""
        place = _place(tensor)
        found = self._last.get(place) if place is not None else None
        return None if found is tensor else found


def _storage(tensor: Tensor) -> int:
    """What tells storages apart; 0 for tensors without one."""
    return int(tensor.untyped_storage()._cdata) if tensor.layout is torch.strided else 0


def _place(tensor: Tensor) -> Hashable:
    """Where the elements are; None where they have no memory of their own, or are none."""
    if tensor.layout is not torch.strided or not tensor.numel() or tensor.is_nested:
        return None
    storage = tensor.untyped_storage()
    memory = storage._cdata if tensor.is_meta else storage.data_ptr()
    return memory, tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset()
