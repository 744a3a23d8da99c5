"""How good a slim model is on a few batches: by the user's loss, or by how near its outputs are to the dense ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from graphprune.calibration.batches import call_arguments, call_model, moved_to, pair_of
from graphprune.calibration.output_error import check_comparable, output_error, outputs_of
from graphprune.calibration.samples import SampleAxes
from graphprune.calibration.statistics import LossFunction
from graphprune.utils.checks import loss_number
from graphprune.utils.contexts import evaluating_eagerly
from graphprune.utils.random_state import random_numbers_kept

JUDGED_SAMPLES, JUDGED_BATCHES = 64, 16
"""Of batches with more samples, or of more batches, about so many judge, at even distances."""


class CandidateJudge:
    """The loss of slim models: ``loss_fn`` with its targets, or without one the error of the outputs.

    Args:
        model: the dense model.
        batches: pairs (inputs, target) where there is a ``loss_fn``, else inputs.
        loss_fn: the loss of outputs and targets.

    Raises:
        InputError: the batches are none that the model takes, or its outputs cannot be compared.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Any], loss_fn: LossFunction | None) -> None:
        self._loss_fn = loss_fn
        self._batches = _spread(list(enumerate(batches)))
        if self._loss_fn is None:
            self._wanted = outputs_of(model, self._batches)
            check_comparable(
                self._wanted,
                "allocation",
                "pass loss_fn= and pairs (inputs, target), or another allocation=",
            )

    def loss(self, model: nn.Module) -> float:
        """The mean over the judged batches; infinite if it is no number."""
        if self._loss_fn is None:
            return output_error(outputs_of(model, self._batches), self._wanted)
        with random_numbers_kept(), torch.no_grad(), evaluating_eagerly(model):
            found = [self._loss_on(model, *batch) for batch in self._batches]
        mean = sum(found) / len(found)
        return mean if mean == mean else float("inf")

    def _loss_on(self, model: nn.Module, number: int, batch: Any) -> float:
        assert self._loss_fn is not None
        inputs, target = pair_of(number, batch)
        args, kwargs = call_arguments(number, inputs)
        args, kwargs, target = moved_to(model, (args, kwargs, target))
        return loss_number(self._loss_fn(call_model(model, number, args, kwargs), target))


def _spread(batches: Sequence[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """Numbered batches at even distances, with about :data:`JUDGED_SAMPLES` samples."""
    samples = sum(axes.count if (axes := SampleAxes.of(batch, 0)) is not None else 1 for _, batch in batches)
    count = min(max(round(len(batches) * min(JUDGED_SAMPLES / samples, 1.0)), 1), JUDGED_BATCHES)
    return [batches[i * len(batches) // count] for i in range(min(count, len(batches)))]
