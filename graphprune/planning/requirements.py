"""What options need that run slim models while a plan is made: weights, batches, and one process."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from graphprune.calibration.batches import communicator_of
from graphprune.errors import InputError, PlanError


def require_batches(calibration: Iterable[Any] | None, asked: str, why: str, do: str) -> Iterable[Any]:
    """The calibration batches; raise an InputError if there are none.

    Args:
        calibration: the batches.
        asked: the option, such as ``"allocation='searched'"``.
        why: what it does with them.
        do: what to do where there are none.
    """
    if calibration is None:
        raise InputError(
            f"{_subject(asked)} {why} on data, and there are none",
            found=f"{asked} without calibration=",
            needed="calibration batches",
            do=do,
        )
    return calibration


def require_one_process(calibration: Any, asked: str, why: str, instead: str) -> None:
    """Raise an InputError if processes share the calibration batches.

    Args:
        calibration: the batches.
        asked: the option and its value, such as ``"latency="``.
        why: what each process would do by itself.
        instead: the option to pass otherwise.
    """
    if communicator_of(calibration).count > 1:
        raise InputError(
            f"{_subject(asked)} {why} in one process, and processes share the calibration batches",
            found=f"{asked} and batches that processes share",
            needed="one process that plans",
            do=f"plan in one process and give the plan to the others, or pass {instead}",
        )


def require_weights(model: nn.Module, asked: str, cannot: str, do: str) -> None:
    """Raise a PlanError if parameters of a model are on the meta device.

    Args:
        model: the model.
        asked: the option and its value, such as ``"latency="``.
        cannot: what cannot be done with the model.
        do: what to do.
    """
    unloaded = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if unloaded:
        raise PlanError(
            f"{asked.partition('=')[0]}: the model is on the meta device and cannot be {cannot}",
            where=unloaded[0],
            found=f"{len(unloaded)} parameters on meta",
            needed="a model with weights",
            do=do,
        )


def _subject(asked: str) -> str:
    """The option as the subject of a message: ``allocation: 'searched'``."""
    name, _, value = asked.partition("=")
    return f"{name}: {value}".rstrip()
