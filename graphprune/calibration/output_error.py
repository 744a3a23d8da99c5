"""How far a model's outputs are from those of another one, by which slim models are judged without labels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.calibration.batches import call_arguments, call_model, moved_to
from graphprune.calibration.communicator import ALONE, Communicator
from graphprune.calibration.own_answers import floating_outputs
from graphprune.utils.contexts import evaluating_eagerly

OutputTensors = list[list[Tensor]]
"""By batch and place in the output, tensors of floating-point numbers."""


@torch.no_grad()
def outputs_of(model: nn.Module, batches: Iterable[Any]) -> OutputTensors:
    """The outputs of a model in evaluation mode, for batches of inputs.

    Raises:
        InputError: the model fails on a batch.
    """
    found = []
    with evaluating_eagerly(model):
        for number, inputs in enumerate(batches):
            args, kwargs = moved_to(model, call_arguments(number, inputs))
            found.append([t.detach() for t in floating_outputs(call_model(model, number, args, kwargs))])
    return found


def relative_error(found: OutputTensors, wanted: OutputTensors, communicator: Communicator = ALONE) -> float:
    """The squared error of outputs, as a fraction of the variance that the wanted ones have.

    Both are summed over all batches in float64, for each tensor of an output by itself; where there are several, their
    mean counts. An error that is no number is infinite.

    Args:
        found: outputs of one model.
        wanted: those of the other, for the same batches.
        communicator: the processes that share the batches.
    """
    sums: dict[int, list[float]] = {}
    for shares in communicator.gather([_sums(*pair) for pair in zip(found, wanted, strict=True)]):
        for share in shares:
            for place, values in enumerate(share):
                sums[place] = [a + b for a, b in zip(sums.get(place, [0.0] * 4), values, strict=True)]
    errors = [error / max(square - total**2 / max(count, 1.0), 1e-30) for error, square, total, count in sums.values()]
    mean = sum(errors) / max(len(errors), 1)
    return mean if math.isfinite(mean) else math.inf


def _sums(found: list[Tensor], wanted: list[Tensor]) -> list[tuple[float, float, float, float]]:
    """For each tensor: its squared error, and of what was wanted the squares, the values, and how many there are."""
    return [_sums_of_one(a.double(), b.double()) for a, b in zip(found, wanted, strict=True)]


def _sums_of_one(found: Tensor, wanted: Tensor) -> tuple[float, float, float, float]:
    error = float((found - wanted).square().sum())
    return error, float(wanted.square().sum()), float(wanted.sum()), float(wanted.numel())
