"""Calibration batches in two halves: slim models are fitted on one half and judged on the other, each way around.

Judged on the samples that they were fitted on, the candidates that fit these samples best would be taken for the best.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from graphprune.calibration.samples import SampleAxes


@dataclass(frozen=True, eq=False)
class Fold:
    """Batches that fit, and batches that judge: pairs (inputs, target) where there is a ``loss_fn``."""

    fitting: Sequence[Any]
    judging: Sequence[Any]


def folds(batches: Sequence[Any]) -> Iterator[Fold]:
    """Both ways around; once, with the same batch for both, where a single batch cannot be halved."""
    first, second = _halves(batches)
    yield Fold(first, second)
    if first is not second:
        yield Fold(second, first)


def _halves(batches: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """Every other batch; of a single batch, its samples in two along the first dimension."""
    if len(batches) > 1:
        return batches[::2], batches[1::2]
    axes = SampleAxes.of(batches[0], 0)
    if axes is None or axes.count < 2:
        return batches, batches
    middle = axes.count // 2
    return [axes.samples(batches[0], 0, middle)], [axes.samples(batches[0], middle, axes.count - middle)]
