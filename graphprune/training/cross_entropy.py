"""The loss where none is given: cross-entropy, of targets that are classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from graphprune.calibration.output_kinds import SUM_ROUNDING
from graphprune.errors import InputError
from graphprune.tracing.inputs import describe

_NEEDED = "logits [batch, classes, ...] and the numbers of classes [batch, ...], or probabilities [batch, classes, ...]"


def cross_entropy(logits: Tensor, target: Any) -> Tensor:
    """The mean cross-entropy of targets, a number.

    Args:
        logits: [batch, classes, ...].
        target: the numbers of classes [batch, ...], or their probabilities, of the shape of the logits.

    Raises:
        InputError: the target is of another form, its floating-point numbers are no probabilities, or there is a single
            class, which says nothing.
    """
    if isinstance(target, Tensor):
        _check_target(logits, target)
    try:
        return F.cross_entropy(logits, target)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"batches: cross entropy of the outputs and the targets of a batch failed: {error}",
            where="the target of a batch",
            found=f"outputs {describe(logits)} and target {describe(target)}",
            needed=_NEEDED,
            do="give targets of this form, or pass loss_fn=, called as loss_fn(output, target)",
        ) from error


def _check_target(logits: Tensor, target: Tensor) -> None:
    """Raise an InputError where torch would compute a number that says nothing."""
    wrong = _wrong(logits, target)
    if wrong:
        raise InputError(
            f"loss_fn: is not given, and cross entropy does not fit: {wrong}",
            where="the target of a batch",
            found=f"outputs {describe(logits)} and target {describe(target)}",
            needed=_NEEDED,
            do="pass loss_fn=, called as loss_fn(output, target): torch.nn.functional.mse_loss for values, "
            "binary_cross_entropy_with_logits for yes or no",
        )


def _wrong(logits: Tensor, target: Tensor) -> str:
    """What is wrong with targets, if anything is."""
    if logits.ndim > 1 and logits.shape[1] == 1:
        return "the outputs have one class, whose probability is 1 whatever it is"
    if not target.is_floating_point():
        return ""
    if logits.ndim < 2:
        return "the outputs have no dimension of classes"
    if target.shape == logits.shape and not _are_probabilities(target):
        return (
            "targets of floating-point numbers are no probabilities, not negative and with the sum 1 over the classes"
        )
    return ""


def _are_probabilities(target: Tensor) -> bool:
    """Are numbers not negative, with the sum 1 over the classes in dimension 1, to rounding?"""
    rounding = max(SUM_ROUNDING, 4 * torch.finfo(target.dtype).eps)
    return bool(((target >= 0).all(1) & ((target.float().sum(1) - 1).abs() < rounding)).all())
