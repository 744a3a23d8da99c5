"""How far slim models' outputs are from those of the dense one: the nearness by which they are judged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.calibration.batches import call_arguments, call_model, moved_to
from graphprune.calibration.communicator import ALONE, Communicator
from graphprune.calibration.divergence import DivergenceSums, relative_errors, sums_of
from graphprune.calibration.output_kinds import kinds_of, pieces
from graphprune.errors import InputError
from graphprune.tracing.run_state import evaluating_unchanged
from graphprune.tracing.running import Outputs
from graphprune.utils.complex_numbers import real_parts
from graphprune.utils.random_state import random_numbers_of
from graphprune.utils.tree import dense_outputs

OutputTensors = list[list[Tensor]]
"""By batch and place in the output, tensors of floating-point numbers."""


def compared_outputs(output: Any) -> list[Tensor]:
    """The tensors of floating-point numbers in a model's output, in order; of one with ``logits``, these alone."""
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    tensors: Iterator[Tensor] = iter([logits]) if isinstance(logits, Tensor) else dense_outputs(output)
    return [t for t in tensors if t.is_floating_point() and t.numel()]


def _numbers_of(output: Any) -> list[Tensor]:
    """What is compared of an output: where it has no floating-point number, complex ones, integers, truth values."""
    found = compared_outputs(output) or [t for t in dense_outputs(output) if t.numel()]
    return [real_parts(t) for t in found]


@torch.no_grad()
def outputs_of(model: nn.Module, numbered: Iterable[tuple[int, Any]], pick: Outputs | None = None) -> OutputTensors:
    """The outputs of a model in evaluation mode, for batches of inputs with their numbers.

    Where models draw random numbers, they get the same for a batch of the same number.

    Args:
        model: runs as it is.
        numbered: the batches.
        pick: gives what counts of a result; None: all of it.

    Raises:
        InputError: the model fails on a batch.
    """
    found = []
    with evaluating_unchanged(model):
        for number, inputs in numbered:
            args, kwargs = moved_to(model, call_arguments(number, inputs))
            with random_numbers_of(number):
                output = call_model(model, number, args, kwargs)
            found.append([t.detach() for t in _numbers_of(output if pick is None else pick(output))])
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


@dataclass(frozen=True)
class OutputError:
    """How far the outputs of a slim model are from the dense ones.

    Attributes:
        value: the error; infinite if it is no number, or if there is nothing to compare.
        parts: by the place of a tensor in the output, what each slice of its first dimension, mostly a sample, adds to
            it. [slices]
    """

    value: float
    parts: Mapping[int, Tensor]

    def noise(self, other: OutputError) -> float:
        """The standard error of the difference to another slim model's error, by how it varies between slices.

        Slices are taken to be independent. It is zero where nothing is known of it: of tensors with a single slice, and
        of those that one of the models has in another shape.
        """
        pairs = [(part, other.parts[place]) for place, part in self.parts.items() if place in other.parts]
        differences = [own - its for own, its in pairs if len(own) == len(its) > 1]
        return math.sqrt(sum(len(one) * float(one.var()) for one in differences))


class DenseOutputs:
    """The dense model's outputs, from which those of slim models are so far.

    The error is that part of what the outputs say which is lost, by what they are
    (:func:`~graphprune.calibration.output_kinds.kinds_of`):

    * Probabilities and scores of classes, and probabilities by themselves: the Kullback-Leibler divergence of the slim
      model's probabilities from the dense one's, as a fraction of the mutual information of inputs and the dense
      model's answers, which is the divergence of their means.
    * Values: the squared error, as a fraction of the variance.

    A model that gives the mean of each channel whatever its input has the error 1. Sums go over all batches in float64,
    for each tensor of an output by itself; where there are several, their mean counts. Tensors of other shapes than
    what was wanted (a cache of keys and values) do not count, and neither do values that are wanted to be infinite
    (masked scores).

    Args:
        tensors: by batch and place in the output.
        communicator: the processes that share the batches.

    Attributes:
        tensors: as given.
    """

    def __init__(self, tensors: OutputTensors, communicator: Communicator = ALONE) -> None:
        self.tensors = tensors
        self._communicator = communicator
        self._kinds = kinds_of(tensors, communicator)

    def error(self, found: OutputTensors) -> OutputError:
        """The error of a slim model's outputs for the same batches."""
        sums: dict[int, dict[int, DivergenceSums]] = {}
        own = [self._sums(*pair) for pair in zip(found, self.tensors, strict=True)]
        for batch in (batch for share in self._communicator.gather(own) for batch in share):
            for place, one in batch:
                widths, width = sums.setdefault(place, {}), len(one.total)
                widths[width] = widths[width].plus(one) if width in widths else one
        parts = {p: relative_errors(self._kinds[p], widths.values()) / len(sums) for p, widths in sums.items()}
        value = sum(float(part.sum()) for part in parts.values()) if parts else math.inf
        return OutputError(value if math.isfinite(value) else math.inf, parts)

    def _sums(self, found: list[Tensor], wanted: list[Tensor]) -> list[tuple[int, DivergenceSums]]:
        """The sums of one batch, by the place of a tensor in the output."""
        return [
            (place, sums_of(self._kinds[place], *pair))
            for place, (slim, dense) in enumerate(zip(found, wanted, strict=False))
            if _alike(slim, dense)
            for pair in zip(pieces(slim), pieces(dense), strict=True)
        ]


def _alike(found: Tensor, wanted: Tensor) -> bool:
    """Have two tensors the same shape, and the wanted one a number to compare with?"""
    return found.shape == wanted.shape and bool(wanted.isfinite().any())
