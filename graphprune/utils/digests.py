"""Digests of batches, by which data are known again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from graphprune.utils.tree import as_dense, tensors_of

_BITS = 256


def digest(batches: Iterable[Any]) -> str:
    """A digest of the tensors in batches. It is the same in whichever order, and batches, the samples come.

    Samples lie along the first dimension. What a sample has in several tensors of a batch is counted together.
    """
    total = sum(_number(sample) for batch in batches for sample in _samples(list(tensors_of(batch))))
    return f"{total % 2**_BITS:064x}"


def _samples(tensors: list[Tensor]) -> Iterable[Sequence[Tensor]]:
    """The tensors of each sample; all together where they do not have as many entries in their first dimension."""
    rows = [as_dense(tensor.detach()).cpu().unbind() if tensor.ndim else () for tensor in tensors]
    alike = len({len(found) for found in rows}) == 1 and all(rows)
    return zip(*rows, strict=True) if alike else [tensors]


def _number(tensors: Sequence[Tensor]) -> int:
    found = hashlib.sha256()
    for tensor in tensors:
        dense = as_dense(tensor.detach()).cpu().contiguous()
        found.update(repr((tuple(dense.shape), dense.dtype)).encode())
        found.update(dense.reshape(-1).view(torch.uint8).numpy().data)
    return int.from_bytes(found.digest(), "big")
