"""Copies that a forward pass makes of parameters: a weight in another order, as ``torch.einsum`` makes one."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from graphprune.reconstruction.executed_call import ExecutedCall
from graphprune.reconstruction.linear_calls import (
    LinearCall,
    ParameterCopy,
    ParameterMemory,
    ParameterView,
    address,
    flat,
)
from graphprune.rules.registry import has_trait
from graphprune.rules.traits import Trait


class ParameterCopies:
    """The parameters as one forward pass sees them: their own memory, and the copies that the pass has made of them.

    Copies are known by weak references to their storages, so those that the pass drops are freed as ever.
    """

    def __init__(self, memory: ParameterMemory) -> None:
        self._memory = memory
        self._known: dict[int, tuple[StorageWeakRef, ParameterCopy]] = {}  # by the identity of the storage

    def clear(self) -> None:
        self._known.clear()

    def find(self, tensor: Tensor) -> ParameterView | None:
        """The tensor as a view of a parameter, of a buffer, or of a copy of one; None if it is no such view."""
        found = self._memory.find(tensor)
        copied = self._copy_at(tensor) if found is None else None
        if copied is None:
            return found
        name, offset = copied.source.name, int(tensor.storage_offset())
        view = ParameterView(name, tuple(tensor.shape), tensor.stride(), offset, copied)
        same = tensor.dtype == self._memory.tensors[name].dtype
        return view if same and tensor.numel() and view.span <= copied.whole.span else None

    def owner(self, place: int, tensor: Tensor) -> str | None:
        """The name of the parameter or buffer that a tensor, whose storage is at ``place``, has entries of."""
        name = self._memory.owner_at(place, tensor)
        copied = self._copy_at(tensor) if name is None else None
        return name if copied is None else copied.source.name

    def copy_made(self, call: ExecutedCall) -> ParameterCopy | None:
        """The copy of a parameter that a call makes; None: it makes none."""
        if not has_trait(call.func, Trait.MOVES, Trait.SHIFTS, Trait.PICKS) or call.kwargs.keys() - {"memory_format"}:
            return None
        if len(call.operands) != 1 or len(call.created) != 1 or call.args[0] is not call.operands[0]:
            return None
        made, source = call.created[0], self.find(call.operands[0])
        if source is None or made.storage_offset() or not made.numel():
            return None
        return ParameterCopy(source, call.func, _fixed(call.args[1:]), tuple(made.shape), made.stride())

    def follow(self, call: ExecutedCall) -> None:
        """Note the copy that a call makes; one that it writes to is no copy any more."""
        if call.is_mutable and call.operands and address(call.operands[0]):
            self._known.pop(call.operands[0].untyped_storage()._cdata, None)
        elif (copied := self.copy_made(call)) is not None:
            storage = call.created[0].untyped_storage()
            self._known[storage._cdata] = StorageWeakRef(storage), copied

    def renew(self, call: LinearCall) -> None:
        """Let the copy that a call multiplies with have the parameter's entries of now."""
        copied = call.key.view.copied
        if copied is not None:
            weight = call.args[call.matmul.weight]
            flat_copy = weight.as_strided((copied.whole.span,), (1,), 0)
            flat_copy.copy_(copied.of(flat(self._memory.tensors[call.key.name])))

    def _copy_at(self, tensor: Tensor) -> ParameterCopy | None:
        found = self._known.get(tensor.untyped_storage()._cdata) if self._known and address(tensor) else None
        return None if found is None or found[0].expired() else found[1]


def _fixed(value: Any) -> Any:
    """Arguments with tuples in place of lists, which can be compared and looked up."""
    return tuple(map(_fixed, value)) if isinstance(value, (list, tuple)) else value
