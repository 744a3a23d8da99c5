"""Memory for integers that a program asked for, and that is then filled without an operation of torch.

``pad_packed_sequence`` writes the lengths that it returns through a pointer. A program that is run again from its
operations would read whatever the memory has.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes


class BlankTensors:
    """Tensors of integers that were made without values, and to which no operation has written yet.

    Attributes:
        left: these, by identity.
    """

    def __init__(self) -> None:
        self.left: dict[int, Tensor] = {}

    def add(self, tensor: Tensor) -> None:
        """A tensor without values: it is given one that no program means."""
        if tensor.dtype in _BLANKS and not tensor.is_meta:
            self.left[id(tensor)] = tensor.fill_(_BLANKS[tensor.dtype])

    def written(self, tensor: Tensor) -> None:
        """An operation writes to a tensor, or to a part of it."""
        self.left.pop(id(tensor if tensor._base is None else tensor._base), None)

    def filled(self, tensor: Tensor) -> bool:
        """Has a tensor got values without an operation? It is blank no longer then."""
        if id(tensor) not in self.left:
            return False
        with torch._C.DisableTorchFunction(), _disable_current_modes():  # looking is no part of the program
            if bool((tensor == _BLANKS[tensor.dtype]).all()):
                return False
        del self.left[id(tensor)]
        return True


_BLANKS = {
    torch.uint8: 254,
    **{kind: torch.iinfo(kind).min + 1 for kind in (torch.int8, torch.int16, torch.int32, torch.int64)},
}
"""By the type of integers, a number that is none of a length or an index."""
