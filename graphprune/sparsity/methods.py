"""Pruning methods that ``torch.nn.utils.prune`` lacks: by threshold, by percentile, and N of M in a row."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.utils import prune


class ThresholdUnstructured(prune.BasePruningMethod):
    """Mask the entries of at most some magnitude.

    Args:
        amount: the magnitude.
    """

    PRUNING_TYPE = "unstructured"

    def __init__(self, amount: float) -> None:
        self.amount = amount

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """The mask of a tensor, or of those of its entries that are not masked yet. [like t]"""
        return default_mask * (t.abs() > self.amount)


class PercentileUnstructured(prune.BasePruningMethod):
    """Mask the entries whose magnitude is below a percentile of all magnitudes, interpolated as ``numpy`` does.

    Args:
        amount: between 0 and 100; 100 leaves the largest.
    """

    PRUNING_TYPE = "unstructured"

    def __init__(self, amount: float) -> None:
        self.amount = amount

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """The mask of a tensor, or of those of its entries that are not masked yet. [like t]"""
        if not t.numel():
            return default_mask.clone()
        sizes = t.abs()
        return default_mask * (sizes >= _percentile(sizes.flatten(), self.amount))


def _percentile(sizes: Tensor, amount: float) -> Tensor:
    """As ``torch.quantile``, which takes no more than 16 million entries."""
    place = amount / 100 * (len(sizes) - 1)
    below = math.floor(place)
    first = sizes.kthvalue(below + 1).values
    if below == place:
        return first
    return torch.lerp(first, sizes.kthvalue(below + 2).values, place - below)


class PatternUnstructured(prune.BasePruningMethod):
    """Keep the ``kept`` largest of every ``group`` entries that follow each other along a dimension.

    What was masked before is not kept as long as anything else is there.

    Source: Zhou et al., "Learning N:M fine-grained structured sparse neural networks from scratch", 2021.
    """

    PRUNING_TYPE = "global"  # a container passes on the whole tensor, not only what is left of it

    def __init__(self, kept: int, group: int, dim: int) -> None:
        self.kept = kept
        self.group = group
        self.dim = dim

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """The mask of a tensor on top of the one that it has. [like t]"""
        masked_last = torch.where(default_mask != 0, t.abs().double(), -1.0)
        groups = masked_last.movedim(self.dim, -1).unflatten(-1, (-1, self.group))
        kept = torch.zeros_like(groups).scatter_(-1, groups.topk(self.kept, dim=-1).indices, 1.0)
        return default_mask * kept.flatten(-2).movedim(-1, self.dim).to(default_mask.dtype)
