"""Complex numbers as real ones."""

from __future__ import annotations

import torch
from torch import Tensor


def real_parts(tensor: Tensor) -> Tensor:
    """Real and imaginary parts of complex entries, along a new last dimension of two; real entries as they are."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
