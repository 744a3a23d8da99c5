"""Memory for integers that a program asked for, and that is then filled without an operation of torch.

``pad_packed_sequence`` writes the lengths that it returns through a pointer. A program that is run again from its
operations would read whatever the memory has.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from graphprune.tracing.meta import is_float


class BlankTensors:
    """Tensors of integers that were made without values, and to which no operation has written yet.

    Attributes:
        left: these, by identity.
    """

    def __init__(self) -> None:
        self.left: dict[int, Tensor] = {}

    def add(self, tensor: Tensor) -> None:
        """A tensor without values: it is given one that no program means."""
        if not (is_float(tensor) or tensor.is_meta or tensor.dtype is torch.bool):
            self.left[id(tensor)] = tensor.fill_(_blank(tensor.dtype))

    def written(self, tensor: Tensor) -> None:
        """An operation writes to a tensor, or to a part of it."""
        self.left.pop(id(tensor if tensor._base is None else tensor._base), None)

    def filled(self, tensor: Tensor) -> bool:
        """Has a tensor got values without an operation? It is blank no longer then."""
        if id(tensor) not in self.left:
            return False
        with torch._C.DisableTorchFunction(), _disable_current_modes():  # looking is no part of the program
            if bool((tensor == _blank(tensor.dtype)).all()):
                return False
        del self.left[id(tensor)]
        return True


def _blank(dtype: torch.dtype) -> int:
    """A number that is none of a length or an index."""
    limits = torch.iinfo(dtype)
    return limits.min + 1 if limits.min else limits.max - 1
