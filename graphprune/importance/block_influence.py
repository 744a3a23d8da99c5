"""The influence of each residual block on its input, for removing whole blocks (``depth=``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphprune.calibration.statistics import Statistics
from graphprune.graph.blocks import Block
from graphprune.utils.complex_numbers import real_parts
from graphprune.utils.tree import tensors_of


def influence(model: nn.Module, blocks: Sequence[Block], statistics: Statistics | None) -> list[float]:
    """Influence of each block: one minus the cosine similarity of its input and output, averaged over calibration data.

    The average is over the positions of sequences (tensors of three dimensions, channels last) as published, and over
    samples otherwise. Without calibration batches: the mean square of its parameters.

    Source: Men et al., "ShortGPT: Layers in Large Language Models are More Redundant Than You Expect", 2024.
    """
    modules = [model.get_submodule(block.path) for block in blocks]
    if statistics is None:
        return [_mean_square(module) for module in modules]
    sums = torch.zeros(len(modules), 2, dtype=torch.float64, device="cpu")

    def hook(number: int) -> Any:
        def note(module: nn.Module, args: Any, kwargs: Any, result: Any) -> None:
            before, after = (_rows(next(tensors_of(value))) for value in ((args, kwargs), result))
            change = 1 - F.cosine_similarity(before, after)
            sums[number] += torch.tensor(
                [float(change.sum(dtype=torch.float64)), len(change)], dtype=torch.float64, device="cpu"
            )

        return note

    handles = [module.register_forward_hook(hook(i), with_kwargs=True) for i, module in enumerate(modules)]
    try:
        statistics.each_forward()
    finally:
        for handle in handles:
            handle.remove()
    statistics.sum(sums)
    return (sums[:, 0] / sums[:, 1]).tolist()


def _rows(x: Tensor) -> Tensor:
    """The vectors of positions, or of samples. [rows, n]"""
    rows = real_parts(x.flatten(0, 1) if x.ndim == 3 else x.flatten(1)).flatten(1)
    return rows if rows.dtype == torch.float64 else rows.float()


def _mean_square(module: nn.Module) -> float:
    total = sum(float(real_parts(p.detach()).square().sum()) for p in module.parameters())
    return total / max(sum(p.numel() for p in module.parameters()), 1)
