"""Calibration batches in two halves: slim models are fitted on one half and judged on the other, each way around.

Judged on the samples that they were fitted on, the candidates that fit these samples best would be taken for the best.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from graphprune.calibration.batch_parts import batch_parts


@dataclass(frozen=True, eq=False)
class Fold:
    """Batches that fit, and batches that judge: pairs (inputs, target) where there is a ``loss_fn``."""

    fitting: Sequence[Any]
    judging: Sequence[Any]


def folds(model: nn.Module, batches: Sequence[Any], paired: bool = False) -> Iterator[Fold]:
    """Both ways around; once, with the same batch for both, where a single batch cannot be halved."""
    first, second = _halves(model, batches, paired)
    yield Fold(first, second)
    if first is not second:
        yield Fold(second, first)


def _halves(model: nn.Module, batches: Sequence[Any], paired: bool) -> tuple[Sequence[Any], Sequence[Any]]:
    """Every other batch; of a single batch, its samples in two."""
    if len(batches) > 1:
        return batches[::2], batches[1::2]
    parts = batch_parts(model, batches[0], lambda count: (count // 2, count - count // 2), paired)
    return (batches, batches) if parts is None else ([parts[0]], [parts[1]])
