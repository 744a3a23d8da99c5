"""Which tensors are the same, where no operation says so.

Not every way to a tensor passes the dispatcher: ``as_subclass``, ``nn.Parameter(y)`` and ``from_numpy(y.numpy())`` give
the same elements to an object that no operation returned; ``z.data = y`` gives other elements to one that did.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from torch import Tensor

from graphprune.utils.storages import storage_of


class Aliases:
    """Tensors that were seen; those that have memory of their own are found by it. All of them are kept alive.

    Places in memory are looked at only when one is asked for.
    """

    def __init__(self, tensors: Iterable[Tensor] = ()) -> None:
        self._seen = list(tensors)
        self._storages = dict(zip(map(id, self._seen), map(storage_of, self._seen), strict=True))
        self._last: dict[Hashable, Tensor] = {}
        self._indexed = 0

    def add(self, tensor: Tensor) -> None:
        """A tensor is seen."""
        self._seen.append(tensor)
        self._storages[id(tensor)] = storage_of(tensor)

    def moved(self, tensor: Tensor) -> bool:
        """Was the tensor given other memory since it was seen last?"""
        return storage_of(tensor) != self._storages.get(id(tensor), 0)

    def all_moved(self) -> list[Tensor]:
        """Those of the tensors that were given other memory since they were seen last."""
        known = self._storages
        try:  # without a call for each
            return [t for t in self._seen if t.untyped_storage()._cdata != known[id(t)]]
        except NotImplementedError:  # there is a sparse one
            return [t for t in self._seen if self.moved(t)]

    def find(self, tensor: Tensor) -> Tensor | None:
        """The tensor seen last that has the same elements; None: there is no other."""
        place = _place(tensor)
        if place is None:
            return None
        for other in self._seen[self._indexed :]:
            self._last[_place(other)] = other
        self._indexed = len(self._seen)
        found = self._last.get(place)
        return None if found is tensor else found


def _place(tensor: Tensor) -> Hashable:
    """Where the elements are; None where they have no memory of their own, or are none."""
    memory = storage_of(tensor)
    if not memory or tensor.is_nested or not tensor.numel():
        return None
    if not tensor.is_meta:
        memory = tensor.untyped_storage().data_ptr()
    return memory, tensor.dtype, tensor.shape, tensor.stride(), tensor.storage_offset()
