"""How far a student's outputs are from its teacher's, by what their numbers are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from typing import Annotated, Any

import torch
from msgspec import Meta
from torch import Tensor
from torch.nn import functional as F

from graphprune.calibration.communicator import Communicator
from graphprune.calibration.divergence import DivergenceSums, sums_of
from graphprune.calibration.output_kinds import CLASSES, SCORES, VALUES, YES_OR_NO, OutputKind, kinds_of, pieces
from graphprune.errors import InputError
from graphprune.utils.complex_numbers import real_parts

LOGITS = "scores of yes or no"
"""What only targets tell from values: each is the logit of a probability by itself."""
_KINDS = (CLASSES, SCORES, YES_OR_NO, LOGITS, VALUES)
_LEAST = torch.finfo(torch.float32).eps
"""Probabilities are no nearer to zero and one than float32 can tell from these."""


@dataclass(frozen=True)
class Yardstick:
    """By what a student's outputs are compared with its teacher's.

    Attributes:
        kind: what the outputs are; its name may also be :data:`LOGITS`.
        spread: of values, the mean squared distance from the mean of their channel, or 1 if this is more: a learning
            rate that fits their squared error fits that of values in smaller units, too.
    """

    kind: OutputKind
    spread: Annotated[float, Meta(ge=1)] = 1.0

    def __post_init__(self) -> None:
        if self.kind.name not in _KINDS:
            raise ValueError(f"kind: {self.kind.name!r} is none of {', '.join(_KINDS)}")

    @staticmethod
    def of(student: Tensor, teacher: Tensor, said: OutputKind | None, communicator: Communicator) -> Yardstick:
        """The yardstick by the outputs for one batch.

        Args:
            student, teacher: the outputs. Probabilities are what both have.
            said: what the targets say of the outputs; None: the teacher's outputs say what they are
                (:func:`graphprune.calibration.output_kinds.kinds_of`).
            communicator: the processes that share the batch.
        """
        told, shown = _sample_of(teacher), _sample_of(student)
        (kind,) = kinds_of([[told]], communicator)
        if kind.name in (CLASSES, YES_OR_NO) and kinds_of([[told], [shown]], communicator) != (kind,):
            kind = OutputKind()
        said = next(filter(None, communicator.gather(said)), None)
        if said is not None and not _goes_with(kind, said, told.ndim):
            kind = said
        return Yardstick(kind, _spread(told, kind, communicator) if kind.name == VALUES else 1.0)

    def distance(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """How far the student's outputs are from the teacher's, a number.

        * Classes: :func:`distillation_loss` of their scores; those of probabilities are their logarithms.
        * Other probabilities, and logits: the same of two classes, yes and no, for each; and the mean of the squares by
          which the student's probabilities leave [0, 1], where the divergence has no slope.
        * Values: the mean squared error, as a fraction of their spread. Those that are to be infinite do not count.

        Raises:
            InputError: the shapes differ, or there are no classes in the dimension of the kind.
        """
        _check_alike(student, teacher)
        student, teacher = _real(student), _real(teacher.detach())
        if self.kind.name == SCORES:
            return distillation_loss(student, teacher, temperature, self.kind.dim)
        if self.kind.name == CLASSES:
            return distillation_loss(_logarithms(student), _logarithms(teacher), temperature, self.kind.dim)
        if self.kind.name == YES_OR_NO:
            beyond = (student - student.clamp(0, 1)).square().mean()
            return beyond + distillation_loss(_yes_and_no(student), _yes_and_no(teacher), temperature)
        if self.kind.name == LOGITS:
            return distillation_loss(_and_zero(student), _and_zero(teacher), temperature)
        known = ~teacher.isinf()
        squares = (student - teacher).where(known, 0.0).square()
        return squares.sum() / (self.spread * known.sum().clamp(min=1))


def said_by(target: Any, output: Tensor) -> OutputKind | None:
    """What a target says of an output, if anything: the numbers of its classes, or ones and zeros for yes and no."""
    if not isinstance(target, Tensor) or target.is_complex():
        return None
    if target.shape == output.shape:
        return OutputKind(LOGITS) if _are_yes_and_no(target) else None
    if target.is_floating_point() or output.ndim < 2:
        return None
    without = {dim: [n for d, n in enumerate(output.shape) if d != dim % output.ndim] for dim in (1, -1)}
    dims = (dim for dim in (1, -1) if output.shape[dim] > 1 and list(target.shape) == without[dim])
    return next((OutputKind(SCORES, dim) for dim in dims), None)


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = 4.0, dim: int = -1) -> Tensor:
    """``T² * KL(teacher || student)``, the mean over everything but the classes in ``dim``. Logits of equal shape.

    The factor T² keeps the gradient's size the same at every temperature (Hinton et al., 2015, section 2).

    Raises:
        InputError: the shapes differ, or the logits have no classes in this dimension.
    """
    _check_alike(student, teacher)
    _check_classes(student, dim)
    teacher_output = F.log_softmax(teacher.detach().float() / temperature, dim).movedim(dim, -1).flatten(0, -2)
    student_log = F.log_softmax(student.float() / temperature, dim).movedim(dim, -1).flatten(0, -2)
    return F.kl_div(student_log, teacher_output, reduction="batchmean", log_target=True) * temperature**2


def _check_alike(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise InputError(
            f"teacher: gives outputs {list(teacher.shape)}, but the student {list(student.shape)}",
            where="the outputs of teacher and student",
            found=f"{list(teacher.shape)} and {list(student.shape)}",
            needed="outputs of one shape",
            do="distil from a network with the same classes, or the same values",
        )


def _check_classes(logits: Tensor, dim: int) -> None:
    """Raise an InputError unless a dimension has several classes, and another one samples."""
    shape, held = list(logits.shape), "the dimension of the logits that holds the classes"
    if not -logits.ndim <= dim < logits.ndim:
        raise InputError(
            f"dim: logits {shape} have no dimension {dim}",
            where="the outputs of teacher and student",
            found=f"dim={dim} and logits {shape}",
            needed=held,
            do=f"pass dim={min(1, logits.ndim - 1)}, or -1 for the last",
        )
    if logits.ndim < 2 or shape[dim] < 2:
        what = "one class, whose probability is 1 whatever it is" if shape[dim] < 2 else "no dimension beside it"
        raise InputError(
            f"dim: in dimension {dim}, logits {shape} have {what}",
            where="the outputs of teacher and student",
            found=f"dim={dim} and outputs {shape}",
            needed=f"{held}, two at least, for each sample",
            do="leave out dim in Distillation(), which finds what the outputs are; in a loop of your own, compare "
            "values by F.mse_loss(student, teacher)",
        )


def _goes_with(found: OutputKind, said: OutputKind, dims: int) -> bool:
    """Is what outputs were found to be a case of what the targets say, of tensors with so many dimensions?"""
    if said.name == LOGITS:
        return found.name in (CLASSES, YES_OR_NO)
    return found.of_classes and found.dim % dims == said.dim % dims


def _are_yes_and_no(target: Tensor) -> bool:
    """Are there ones and zeros, and nothing else, that are not one 1 for each row, as for classes?"""
    ones, zeros = target == 1, target == 0
    both = bool((ones | zeros).all() & ones.any() & zeros.any())
    return both and not (target.ndim > 1 and bool((ones.sum(1) == 1).all()))


def _spread(values: Tensor, kind: OutputKind, communicator: Communicator) -> float:
    sums = reduce(DivergenceSums.plus, communicator.gather(sums_of(kind, values, values)))
    spread = sums.spread(kind) / max(int(sums.rows.sum()), 1)
    return max(spread, 1.0) if math.isfinite(spread) else 1.0


def _sample_of(outputs: Tensor) -> Tensor:
    """Some of the outputs, on the CPU, where all numbers can be made float64."""
    return pieces(_real(outputs.detach()))[0].cpu()


def _real(outputs: Tensor) -> Tensor:
    """As numbers of float32."""
    return real_parts(outputs).float()


def _logarithms(probabilities: Tensor) -> Tensor:
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


def _yes_and_no(chances: Tensor) -> Tensor:
    """The scores of two classes: [..., 2]."""
    likely = chances.clamp(_LEAST, 1 - _LEAST)
    return torch.stack((likely, 1 - likely), -1).log()


def _and_zero(logits: Tensor) -> Tensor:
    """The same, of which the first is the logit and the second is zero: [..., 2]."""
    return torch.stack((logits, torch.zeros_like(logits)), -1)
