"""A batch in two parts of its samples, where the model shows which dimension has the samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from graphprune.calibration.constant_draws import ConstantDraws
from graphprune.calibration.output_error import outputs_of
from graphprune.calibration.samples import SampleAxes, is_part
from graphprune.errors import InputError

Sizes = Callable[[int], tuple[int, int]]
"""Of a number of samples, how many go into the first part, and how many of those that follow into the second."""


def batch_parts(model: nn.Module, batch: Any, sizes: Sizes, paired: bool = False) -> tuple[Any, Any] | None:
    """The parts of a batch; None if one would be empty, or if samples cannot be told apart.

    Samples lie along the first dimension, or the second (recurrent networks with time first): where the model gives
    the second part alone what it gives in the whole batch. A graph whose edges number the rows of another tensor, or a
    batch beside a state that it is not cut with, has no such dimension.

    Args:
        model: what the batch is for.
        batch: inputs, or a pair (inputs, target).
        sizes: of the parts.
        paired: is it a pair?
    """
    whole: list[Tensor] | None = None
    for axes in (SampleAxes.of(batch, 0), SampleAxes.of(batch, 1)):
        first, second = sizes(axes.count) if axes is not None else (0, 0)
        if axes is None or not first or not second:
            continue
        part = axes.samples(batch, first, second)
        try:
            whole = _outputs(model, batch, paired) if whole is None else whole
            own = _outputs(model, part, paired)
        except InputError:  # these are no samples; where the whole batch fails, whoever runs it says so
            continue
        if len(own) == len(whole) and all(
            is_part(*pair, first, second, axes.count) for pair in zip(own, whole, strict=True)
        ):
            return axes.samples(batch, 0, first), part
    return None


def _outputs(model: nn.Module, batch: Any, paired: bool) -> list[Tensor]:
    with ConstantDraws():
        return outputs_of(model, [(0, batch[0] if paired else batch)])[0]
