"""Shallow copies of tensors, as ``copy.copy`` makes them: the same memory under another tensor."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from graphprune.utils.global_state import patched


@contextmanager
def shallow_copies() -> Iterator[None]:
    """Let ``copy.copy`` make copies of tensors by operations, where else it would go by their memory."""
    with patched(Tensor, __copy__=_copied):
        yield


def _copied(tensor: Tensor) -> Tensor:
    if type(tensor) is Tensor and not vars(tensor):
        return tensor.detach().requires_grad_(tensor.requires_grad)
    found: Tensor = copy._reconstruct(tensor, None, *tensor.__reduce_ex__(4))  # type: ignore[attr-defined]
    return found
