"""Copies of buffers that modules keep beside them, and that no run reads: they lose what the buffers lose."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from graphprune.graph.analysis import Analysis
from graphprune.utils.arrays import Ids
from graphprune.utils.modules import tables

_Kept = Mapping[str, dict[int, Ids]]


def kept_of_copies(graph: Analysis, kept: _Kept) -> dict[str, dict[int, Ids]]:
    """What is left of buffers that no run reads, where a buffer of the same module has the same entries.

    Rotary embeddings keep their first frequencies so, for inputs of other lengths. Buffers of one value are equal by
    chance.
    """
    if not graph.trace.unreached:
        return {}
    buffers = tables(graph.model).buffers
    cut = [name for name in kept if name in buffers]
    found = {}
    for name in [name for name in graph.trace.unreached if name in buffers and buffers[name].ndim] if cut else []:
        path = name.rpartition(".")[0]
        beside = [other for other in cut if other.rpartition(".")[0] == path]
        of = next((other for other in beside if _is_copy(buffers[name], buffers[other])), None)
        if of is not None:
            found[name] = dict(kept[of])
    return found


def _is_copy(tensor: Tensor, other: Tensor) -> bool:
    if tensor.is_meta or other.is_meta or tensor.shape != other.shape or tensor.device != other.device:
        return False
    return torch.equal(tensor, other) and bool((tensor != tensor.ravel()[:1]).any())
