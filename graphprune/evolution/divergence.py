"""How far a slim model is from the dense one on a few batches: by the user's loss, or by the outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.calibration.batches import Batches, call_arguments, call_model, moved_to, pair_of
from graphprune.errors import InputError
from graphprune.planning.options import PruningOptions
from graphprune.utils.checks import loss_number
from graphprune.utils.contexts import evaluating_eagerly
from graphprune.utils.random_state import random_numbers_kept
from graphprune.utils.tree import tensors_of

JUDGED = 8
"""Candidates are judged on so many of the calibration batches, at even distances."""
ROUNDED = 1e-3
"""Sums of probabilities are one up to this."""


@dataclass(frozen=True)
class JudgedBatch:
    """A batch and what is compared with: ``target`` are labels, or the dense model's outputs."""

    number: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    target: Any


class CandidateJudge:
    """The loss of slim models: ``loss_fn`` with its targets, or without one the divergence from the dense outputs.

    Args:
        model: the dense model.
        options: their ``calibration`` and ``loss_fn``.

    Raises:
        InputError: the batches are none that the model takes.
    """

    def __init__(self, model: nn.Module, options: PruningOptions) -> None:
        assert options.calibration is not None
        self._loss_fn = options.loss_fn
        batches = list(Batches(options.calibration))
        step = max(len(batches) / JUDGED, 1.0)
        chosen = [batches[int(i * step)] for i in range(min(JUDGED, len(batches)))]
        with random_numbers_kept(), torch.no_grad(), evaluating_eagerly(model):
            self._batches = [self._judged(model, number, batch) for number, batch in chosen]

    def _judged(self, model: nn.Module, number: int, batch: Any) -> JudgedBatch:
        inputs, target = (batch, None) if self._loss_fn is None else pair_of(number, batch)
        args, kwargs = call_arguments(number, inputs)
        args, kwargs, target = moved_to(model, (args, kwargs, target))
        if self._loss_fn is None:
            target = compared_outputs(call_model(model, number, args, kwargs))
            _check_outputs(target, number)
        return JudgedBatch(number, args, kwargs, target)

    def loss(self, model: nn.Module) -> float:
        """The mean over the judged batches; infinite if it is no number."""
        with random_numbers_kept(), torch.no_grad(), evaluating_eagerly(model):
            found = [self._loss_on(model, batch) for batch in self._batches]
        mean = sum(found) / len(found)
        return mean if mean == mean else float("inf")

    def _loss_on(self, model: nn.Module, batch: JudgedBatch) -> float:
        output = call_model(model, batch.number, batch.args, batch.kwargs)
        if self._loss_fn is not None:
            return loss_number(self._loss_fn(output, batch.target))
        return divergence(compared_outputs(output), batch.target)


def _check_outputs(outputs: Mapping[str, Tensor], number: int) -> None:
    """Raise an InputError unless there is something to compare."""
    if not outputs:
        raise InputError(
            "calibration: the model's output has no floating-point tensor, by which candidates could be compared",
            where=f"batch {number} of calibration",
            found="an output without floating-point tensors",
            needed="outputs that can be compared, or a loss",
            do="pass loss_fn= and pairs (inputs, target), or another allocation=",
        )


def compared_outputs(output: Any) -> dict[str, Tensor]:
    """The floating-point tensors of an output; of one with ``logits``, these alone."""
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    tensors: Iterator[Tensor] = iter([logits]) if isinstance(logits, Tensor) else tensors_of(output)
    return {str(i): t.detach() for i, t in enumerate(tensors) if t.is_floating_point() and t.numel()}


def divergence(found: Mapping[str, Tensor], dense: Mapping[str, Tensor]) -> float:
    """The mean over the outputs that have the shapes of the dense ones (a cache of keys and values has not)."""
    pairs = [(found[name], y) for name, y in dense.items() if name in found and found[name].shape == y.shape]
    each = [_of_one(x.float(), y.float()) for x, y in pairs]
    return sum(each) / len(each) if each else float("inf")


def _of_one(found: Tensor, dense: Tensor) -> float:
    """The relative square error, with the mean of each channel as the worst that is expected of a model."""
    rows = dense.reshape(-1, dense.shape[-1]) if dense.ndim > 1 else dense.reshape(-1, 1)
    spread = (rows - rows.mean(0)).square().sum() if len(rows) > 1 else rows.square().sum()
    return float((found - dense).square().sum() / spread.clamp(min=torch.finfo(torch.float32).tiny))
