"""Example tensors, and the sizes that are usual."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SEQUENCE = 16
"""Length of a guessed sequence: long enough to tell the dimension apart, short enough to be cheap."""


IMAGE_SIZES = (224, 32, 64, 299, 28, 128, 256, 96, 384, 512, 16)


SIGNAL_SIZES = (1024, 128, 16000, 16, 64, 256, 100, 4096)


VOLUME_SIZES = ((16, 112, 112), (32, 32, 32), (8, 64, 64), (16, 224, 224), (64, 64, 64), (8, 32, 32))


_SEED = 0


class TensorMaker:
    """Makes example tensors of one floating dtype, always the same ones."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def floats(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator(), device="cpu").to(self.dtype)

    def ids(self, *shape: int, below: int, avoid: frozenset[int] = frozenset()) -> Tensor:
        """Indices in ``[0, below)``, none of them in ``avoid`` as far as that leaves a choice."""
        ids = torch.randint(max(below, 1), shape, generator=self._generator(), device="cpu")
        allowed = next((i for i in range(below) if i not in avoid), 0)
        forbidden = torch.tensor(sorted(avoid), dtype=torch.long, device="cpu")
        return torch.where(torch.isin(ids, forbidden), allowed, ids)

    @staticmethod
    def _generator() -> torch.Generator:
        return torch.Generator().manual_seed(_SEED)


def floating_dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def image_sizes(value: Any) -> list[tuple[int, int]]:
    """An ``image_size`` in any of its spellings as at most one pair (height, width)."""
    if isinstance(value, int) and value > 0:
        return [(value, value)]
    if isinstance(value, (tuple, list)) and len(value) >= 2 and all(isinstance(v, int) for v in value):
        return [(value[-2], value[-1])]
    return []
