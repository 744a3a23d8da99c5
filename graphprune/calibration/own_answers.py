"""A loss without labels: a model's outputs against answers that are drawn from these outputs.

The squared gradients of such a loss have an expectation that depends on the outputs alone: the Fisher information where
outputs are probabilities, and the squared change of all outputs elsewhere. A model's exact output as its own target
would say nothing: the gradient is zero there.

Source: Kunstner, Hennig and Balles, "Limitations of the Empirical Fisher Approximation for Natural Gradient Descent",
NeurIPS 2019 (labels drawn from the predictions); Martens and Grosse, "Optimizing Neural Networks with
Kronecker-factored Approximate Curvature", ICML 2015.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import Any, NamedTuple

import torch
from torch import Tensor

from graphprune.calibration.communicator import Communicator
from graphprune.calibration.output_error import compared_outputs
from graphprune.calibration.output_kinds import CLASSES, SCORES, VALUES, YES_OR_NO, OutputKind

SMOOTHING = 0.1
"""So much of the probabilities of scores is spread evenly over the classes: samples of which a model is sure would say
nothing, and a hundred samples have few others."""
_SKIPPED = 2**20
"""So many numbers at most are drawn at once to be thrown away."""


class Answer(NamedTuple):
    """An answer to one tensor of an output.

    Attributes:
        kind: what the tensor has.
        values: of the shape of the tensor: one for the class that was drawn and zero for the others, ones and zeros,
            signs, or weights.
    """

    kind: OutputKind
    values: Tensor


class AnswerDraws:
    """The random numbers of answers to a model's outputs, of one pass over the batches of a process.

    Where processes share the batches, each draws for its own what a single process with all of them would: batch i of
    process r of n is number i * n + r. Numbers that belong to batches of others are drawn and thrown away.

    Args:
        seed: of the generator.
        kinds: what each tensor of an output has.
        shapes: by batch of this process, the shapes of the tensors that answers are drawn for.
        communicator: the processes that share the batches.
    """

    def __init__(
        self,
        seed: int,
        kinds: Sequence[OutputKind],
        shapes: Sequence[Sequence[torch.Size]],
        communicator: Communicator,
    ) -> None:
        self._kinds = kinds
        self._generator = torch.Generator().manual_seed(seed)
        own = [sum(map(_numbers_drawn, batch, kinds[: len(batch)])) for batch in shapes]
        self._skipped = _numbers_of_others(communicator.gather(own), communicator.rank)
        self._next = 0

    def answers(self, number: int, output: Any) -> list[Answer]:
        """An answer to each tensor of the output for batch ``number`` of this process. Batches come in order."""
        left, self._next = sum(self._skipped[self._next : number + 1]), number + 1
        while left > 0:
            left -= len(torch.rand(min(left, _SKIPPED), generator=self._generator, dtype=torch.float64, device="cpu"))
        return draw_answers(output, self._kinds, self._generator)


def _numbers_drawn(shape: torch.Size, kind: OutputKind) -> int:
    """How many random numbers the answer to a tensor takes: one for each class drawn, else one for each entry."""
    classes = kind.dim % len(shape) if kind.name == CLASSES else None
    return math.prod(size for dim, size in enumerate(shape) if dim != classes)


def _numbers_of_others(drawn: Sequence[Sequence[int]], rank: int) -> list[int]:
    """How many numbers other processes draw before each batch of a process, since its last one.

    Args:
        drawn: by process and batch, how many numbers are drawn.
        rank: the number of the process.
    """
    count, in_order = len(drawn), list(chain.from_iterable(zip_longest(*drawn, fillvalue=0)))
    places = range(rank, count * len(drawn[rank]), count)
    return [sum(in_order[max(place - count + 1, 0) : place]) for place in places]


def draw_answers(output: Any, kinds: Sequence[OutputKind], generator: torch.Generator) -> list[Answer]:
    """For each tensor of an output an answer of its shape, drawn at random.

    Probabilities of classes give a class, other probabilities each a one or a zero, and values signs, 1 or -1, for a
    random projection. Scores of classes give signs that have weights, so that the covariance is the Fisher information
    of their softmax, smoothed by :data:`SMOOTHING`. Numbers are drawn in the order of the entries, so that samples get
    the same answers however they are batched.

    Args:
        output: of the model, for some samples.
        kinds: what each tensor of an output has, of which this one may have fewer (a prediction for each step).
        generator: of the random numbers.
    """
    tensors = compared_outputs(output)
    given = zip(tensors, kinds[: len(tensors)], strict=True)
    return [Answer(kind, _drawn(tensor.detach(), kind, generator)) for tensor, kind in given]


def _drawn(tensor: Tensor, kind: OutputKind, generator: torch.Generator) -> Tensor:
    if kind.name == CLASSES:
        return _class_drawn(tensor, kind, generator)
    draws = _uniform(tensor, generator)
    if kind.name == YES_OR_NO:
        return (draws < tensor).to(tensor.dtype)
    signs = 2.0 * (draws < 0.5) - 1.0
    return (signs if kind.name == VALUES else _of_fisher_covariance(tensor, kind, signs)).to(tensor.dtype)


def _of_fisher_covariance(tensor: Tensor, kind: OutputKind, signs: Tensor) -> Tensor:
    """Signs made weights whose covariance is the Fisher information diag(p) - p p' of scores.

    So is that of a drawn class less the probabilities, which varies more: it is next to nothing for almost all samples
    and large for a few.
    """
    chances = tensor.double().softmax(kind.dim).nan_to_num(0.0)
    chances = (1 - SMOOTHING) * chances + SMOOTHING / tensor.shape[kind.dim]
    weights = chances.sqrt() * signs
    return weights - chances * weights.sum(kind.dim, keepdim=True)


def _class_drawn(tensor: Tensor, kind: OutputKind, generator: torch.Generator) -> Tensor:
    """A one for the class that was drawn."""
    rows = kind.log_probabilities(tensor).exp()
    below = rows.cumsum(-1) < _uniform(rows[:, :1], generator)
    chosen = below.sum(-1, keepdim=True).clamp(max=rows.shape[-1] - 1)
    ones = torch.zeros_like(rows, dtype=tensor.dtype).scatter_(-1, chosen, 1.0)
    return ones.reshape(tensor.movedim(kind.dim, -1).shape).movedim(-1, kind.dim)


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers in [0, 1), of the shape of a tensor and on its device."""
    return torch.rand(like.shape, generator=generator, dtype=torch.float64, device="cpu").to(like.device)


def answer_loss(output: Any, answers: Sequence[Answer]) -> Tensor:
    """The loss of an output with answers that :func:`draw_answers` drew for it, a scalar.

    It is the sum over entries of the negative logarithm of the answer's probability, or of outputs times their weights.
    """
    losses = [_loss(*pair) for pair in zip(compared_outputs(output), answers, strict=True)]
    return torch.stack([loss.to(torch.promote_types(loss.dtype, torch.float32)) for loss in losses]).sum()


def _loss(tensor: Tensor, answer: Answer) -> Tensor:
    kind, values = answer.kind, answer.values
    if kind.name in (VALUES, SCORES):
        return (tensor.where(tensor.isfinite(), 0.0) * values).sum()
    chosen = -(values * tensor.clamp(min=torch.finfo(tensor.dtype).tiny).log()).sum()
    if kind.name == CLASSES:
        return chosen
    return chosen - ((1 - values) * (1 - tensor).clamp(min=torch.finfo(tensor.dtype).eps).log()).sum()
