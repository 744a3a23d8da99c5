"""How far a model's outputs are from those of another one: the nearness by which slim models are judged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.calibration.batches import call_arguments, call_model, moved_to
from graphprune.calibration.communicator import ALONE, Communicator
from graphprune.errors import InputError
from graphprune.tracing.run_state import evaluating_unchanged
from graphprune.utils.tree import tensors_of

OutputTensors = list[list[Tensor]]
"""By batch and place in the output, tensors of floating-point numbers."""


def compared_outputs(output: Any) -> list[Tensor]:
    """The tensors of floating-point numbers in a model's output, in order; of one with ``logits``, these alone."""
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    tensors: Iterator[Tensor] = iter([logits]) if isinstance(logits, Tensor) else tensors_of(output)
    return [t for t in tensors if t.is_floating_point() and t.numel()]


def _numbers_of(output: Any) -> list[Tensor]:
    """What is compared of an output: where it has no floating-point number, complex ones, integers, truth values."""
    found = compared_outputs(output) or [t for t in tensors_of(output) if t.numel()]
    return [torch.view_as_real(t) if t.is_complex() else t if t.is_floating_point() else t.double() for t in found]


@torch.no_grad()
def outputs_of(model: nn.Module, numbered: Iterable[tuple[int, Any]]) -> OutputTensors:
    """The outputs of a model in evaluation mode, for batches of inputs with their numbers.

    Raises:
        InputError: the model fails on a batch.
    """
    found = []
    with evaluating_unchanged(model):
        for number, inputs in numbered:
            args, kwargs = moved_to(model, call_arguments(number, inputs))
            found.append([t.detach() for t in _numbers_of(call_model(model, number, args, kwargs))])
    return found


def check_comparable(outputs: OutputTensors, option: str, do: str, communicator: Communicator = ALONE) -> None:
    """Raise an InputError unless the dense model's outputs have a finite number by which others can be compared.

    Args:
        outputs: those of the dense model.
        option: what compares, for the message.
        do: what to do.
        communicator: the processes that share the batches.
    """
    if communicator.total(sum(int(t.isfinite().sum()) for tensors in outputs for t in tensors)):
        return
    nothing = "no finite number" if any(outputs) else "no tensor with entries"
    raise InputError(
        f"{option}: the model's output has {nothing}, by which slim models could be compared with it",
        found=f"outputs of the calibration batches with {nothing}",
        needed="outputs that can be compared",
        do=do,
    )


def output_error(found: OutputTensors, wanted: OutputTensors, communicator: Communicator = ALONE) -> float:
    """The squared error of outputs, as a fraction of the variance that the wanted ones have.

    Both are summed over all batches in float64, for each tensor of an output by itself; where there are several, their
    mean counts. The variance is that of each channel, an entry of the last dimension, around its own mean: a model
    that gives these means whatever its input has the error 1. Tensors of other shapes than what was wanted (a cache of
    keys and values) do not count, and neither do entries that are wanted to be infinite (masked scores). The error is
    infinite if it is no number, or if there is nothing to compare.

    Args:
        found: outputs of one model.
        wanted: those of the other, for the same batches.
        communicator: the processes that share the batches.
    """
    sums: dict[int, dict[int, _ChannelSums]] = {}
    own = [_sums(*pair) for pair in zip(found, wanted, strict=True)]
    for batch in (batch for share in communicator.gather(own) for batch in share):
        for (place, width), one in batch.items():
            widths = sums.setdefault(place, {})
            widths[width] = widths[width].plus(one) if width in widths else one
    errors = [
        sum(one.error for one in widths.values()) / max(sum(one.spread for one in widths.values()), 1e-30)
        for widths in sums.values()
    ]
    mean = sum(errors) / len(errors) if errors else math.inf
    return mean if math.isfinite(mean) else math.inf


@dataclass(frozen=True)
class _ChannelSums:
    """Sums over rows of one tensor of an output.

    Attributes:
        error: the squared error.
        rows: how many rows each channel has. [channels]
        total, square: the sums of what was wanted, and of its squares. [channels]
    """

    error: float
    rows: Tensor
    total: Tensor
    square: Tensor

    def plus(self, other: _ChannelSums) -> _ChannelSums:
        """The sums over the rows of both."""
        rows, total, square = self.rows + other.rows, self.total + other.total, self.square + other.square
        return _ChannelSums(self.error + other.error, rows, total, square)

    @property
    def spread(self) -> float:
        """The squared distances from the mean of each channel; of a single row, its squares."""
        around = self.square - self.total.square() / self.rows.clamp(min=1)
        return float((around if self.rows.max() > 1 else self.square).sum())


def _sums(found: list[Tensor], wanted: list[Tensor]) -> dict[tuple[int, int], _ChannelSums]:
    """The sums of one batch, by the place of a tensor in the output and its width."""
    pairs = enumerate(zip(found, wanted, strict=False))
    return {(place, b.shape[-1] if b.ndim > 1 else 1): _sums_of_one(a, b) for place, (a, b) in pairs if _alike(a, b)}


def _alike(found: Tensor, wanted: Tensor) -> bool:
    """Have two tensors the same shape, and the wanted one a number to compare with?"""
    return found.shape == wanted.shape and bool(wanted.isfinite().any())


def _sums_of_one(found: Tensor, wanted: Tensor) -> _ChannelSums:
    width = wanted.shape[-1] if wanted.ndim > 1 else 1
    rows, other = wanted.double().reshape(-1, width), found.double().reshape(-1, width)
    known = rows.isfinite()
    rows, error = rows.where(known, 0.0), (other - rows).where(known, 0.0)
    sums = (known.sum(0).cpu(), rows.sum(0).cpu(), rows.square().sum(0).cpu())
    return _ChannelSums(float(error.square().sum()), *sums)
