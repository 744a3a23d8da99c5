"""How good a slim model is on a few batches: by the user's loss, or by how near its outputs are to the dense ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn

from graphprune.calibration.batches import call_arguments, call_model, moved_to, pair_of
from graphprune.calibration.output_error import DenseOutputs, check_comparable, outputs_of
from graphprune.calibration.samples import spread_numbers
from graphprune.calibration.statistics import LossFunction
from graphprune.tracing.run_state import evaluating_unchanged
from graphprune.tracing.running import Outputs
from graphprune.utils.checks import loss_number
from graphprune.utils.random_state import random_numbers_of

QUICK_SAMPLES, THOROUGH_SAMPLES = 64, 512
"""How many samples judge a candidate, about, if there are more: one that is only assembled, and one that is repaired,
which takes longer anyway."""
LEAST_A_BATCH = 4
"""Samples: a batch with fewer counts as so many."""
HELD = 2**29
"""Bytes of the dense model's outputs up to which more than :data:`QUICK_SAMPLES` judge."""


class CandidateJudge:
    """The loss of slim models: ``loss_fn`` with its targets, or without one the error of the outputs.

    Args:
        model: the dense model.
        batches: pairs (inputs, target) where there is a ``loss_fn``, else inputs.
        loss_fn: the loss of outputs and targets.
        samples: of batches with more, some at even distances judge.
        pick: gives what is compared of a result where there is no ``loss_fn``; None: all of it.

    Raises:
        InputError: the batches are none that the model takes, or its outputs cannot be compared.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Sequence[Any],
        loss_fn: LossFunction | None,
        samples: int = QUICK_SAMPLES,
        pick: Outputs | None = None,
    ) -> None:
        self._model, self._loss_fn, self._pick = model, loss_fn, pick
        numbers = spread_numbers(batches, samples, most=samples // LEAST_A_BATCH)
        self._batches = [(number, batches[number]) for number in numbers]
        wanted = outputs_of(model, self._batches, pick) if self._loss_fn is None else []
        if self._loss_fn is None:
            check_comparable(wanted, "allocation", "pass loss_fn= and pairs (inputs, target), or another allocation=")
        self._dense = DenseOutputs(wanted)

    def affordable(self, samples: int) -> int:
        """So many samples, or as many as have outputs that can be held; no fewer than these."""
        held = sum(t.numel() * t.element_size() for tensors in self._dense.tensors for t in tensors)
        return samples if not held else max(QUICK_SAMPLES, min(samples, QUICK_SAMPLES * HELD // held))

    @cached_property
    def dense(self) -> float:
        """The loss of the dense model."""
        return 0.0 if self._loss_fn is None else self.loss(self._model)

    def loss(self, model: nn.Module) -> float:
        """The mean over the judged batches; infinite if it is no number."""
        if self._loss_fn is None:
            return self._dense.error(outputs_of(model, self._batches, self._pick)).value
        with torch.no_grad(), evaluating_unchanged(model):
            found = [self._loss_on(model, *batch) for batch in self._batches]
        mean = sum(found) / len(found)
        return mean if mean == mean else float("inf")

    def _loss_on(self, model: nn.Module, number: int, batch: Any) -> float:
        assert self._loss_fn is not None
        inputs, target = pair_of(number, batch)
        args, kwargs = call_arguments(number, inputs)
        args, kwargs, target = moved_to(model, (args, kwargs, target))
        with random_numbers_of(number):
            return loss_number(self._loss_fn(call_model(model, number, args, kwargs), target), "loss_fn")
