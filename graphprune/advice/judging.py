"""What tells a good slim model from a bad one: the user's loss, that on held-out data, or the error of the outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn

from graphprune.advice.facts import DataFacts
from graphprune.calibration.batches import call_arguments, call_model, check_calibration, moved_to, pair_of
from graphprune.calibration.output_error import DenseOutputs, outputs_of
from graphprune.calibration.statistics import LossFunction
from graphprune.errors import InputError
from graphprune.planning.sensitivity_probe import Evaluate
from graphprune.tracing.places import raised_at
from graphprune.tracing.run_state import evaluating_unchanged
from graphprune.utils.checks import loss_number, with_article
from graphprune.utils.random_state import random_numbers_of
from graphprune.utils.tree import tensors_of

ENOUGH_SAMPLES = 256
"""Batches are read until they hold so many entries."""
_MOST_BATCHES = 64


@dataclass(frozen=True, eq=False)
class Judge:
    """Judges models by a loss, a number that is higher for a worse one.

    Attributes:
        model: the dense model.
        facts: what there is to judge by.
        calibration: the batches that trials read.
        held_out: the batches that it runs models on, if nothing was given to judge by.
        loss_fn: of pairs (inputs, target).
        evaluate: what the user judges by.
    """

    model: nn.Module
    facts: DataFacts
    calibration: Sequence[Any] = ()
    held_out: Sequence[Any] = ()
    loss_fn: LossFunction | None = None
    evaluate: Evaluate | None = None

    def loss(self, slim: nn.Module) -> float:
        """The loss of a model.

        Raises:
            InputError: what judges failed, or returned no number.
        """
        if self.evaluate is not None:
            return _evaluated(self.evaluate, slim)
        with evaluating_unchanged(slim), torch.no_grad():
            if self.loss_fn is not None:
                return self._mean_loss(self.loss_fn, slim)
            found, wanted = (outputs_of(model, enumerate(self.held_out)) for model in (slim, self.model))
            return DenseOutputs(wanted).error(found).value

    def _mean_loss(self, loss_fn: LossFunction, slim: nn.Module) -> float:
        losses = []
        for number, batch in enumerate(self.held_out):
            inputs, target = pair_of(number, batch)
            losses.append(float(loss_fn(_run(slim, number, inputs), moved_to(slim, target))))
        return sum(losses) / len(losses)


def make_judge(
    model: nn.Module, data: Iterable[Any] | None, loss_fn: LossFunction | None, evaluate: Evaluate | None
) -> Judge:
    """What judges models, given what a user has.

    Of the data, the last quarter of the batches is held out; a single batch calibrates and judges.

    Raises:
        InputError: there are no batches, or the model fails on them.
    """
    batches = [] if data is None else _first(data)
    if batches:
        _try(model, batches[0], loss_fn)
    held = len(batches) // 4 or min(len(batches) - 1, 1) if evaluate is None else 0
    held_out = batches[-held:] if held > 0 else batches
    calibration = batches[:-held] if held > 0 else batches
    judged = "evaluate" if evaluate is not None else "" if not batches else "loss" if loss_fn is not None else "output"
    samples = sum(map(_size, batches))
    facts = DataFacts(len(batches), samples, bool(batches) and loss_fn is not None, judged, max(held, 0))
    return Judge(model, facts, calibration, held_out, loss_fn, evaluate)


def _first(data: Iterable[Any]) -> list[Any]:
    """The first batches, until there are enough samples."""
    check_calibration(data)
    found: list[Any] = []
    for batch in islice(data, _MOST_BATCHES):
        found.append(batch)
        if sum(map(_size, found)) >= ENOUGH_SAMPLES and len(found) >= 2:
            break
    if not found:
        raise InputError(
            "data: there are no batches",
            found="an iterable that ends at once",
            needed="batches",
            do="pass an iterable of batches, such as [batch]",
        )
    return found


def _size(batch: Any) -> int:
    first = next(tensors_of(batch), None)
    return 1 if first is None or not first.ndim else len(first)


def _try(model: nn.Module, batch: Any, loss_fn: LossFunction | None) -> None:
    """Raise an InputError unless the model runs on a batch, and its loss is a number."""
    inputs, target = (batch, None) if loss_fn is None else pair_of(0, batch)
    advice = "" if loss_fn is not None else "if batches are pairs (inputs, target), pass loss_fn= too"
    with evaluating_unchanged(model), torch.no_grad():
        output = _run(model, 0, inputs, advice)
        if loss_fn is not None:
            try:
                loss = float(loss_fn(output, moved_to(model, target)))
            except Exception as error:
                raise InputError(
                    f"loss_fn: failed on batch 0 of data: {type(error).__name__}: {error}",
                    where="\n".join(filter(None, ("batch 0 of data", raised_at(error)))),
                    found=f"{type(error).__name__}: {error}",
                    needed="loss_fn(output, target) for the model's output and the batch's target",
                    do="run loss_fn(model(inputs), target) once by itself, and mend what it says",
                ) from error
            if not math.isfinite(loss):
                raise InputError(
                    f"loss_fn: the dense model's loss on batch 0 of data is {loss}; it must be finite",
                    where="batch 0 of data",
                    found=f"a loss of {loss}",
                    needed="a finite loss of the dense model",
                    do="look for NaN in the weights and the data, and for a division by zero in the loss",
                )


def _run(model: nn.Module, number: int, inputs: Any, advice: str = "") -> Any:
    args, kwargs = moved_to(model, call_arguments(number, inputs))
    with random_numbers_of(number):
        return call_model(model, number, args, kwargs, advice)


def _evaluated(evaluate: Callable[[nn.Module], Any], model: nn.Module) -> float:
    try:
        with evaluating_unchanged(model):
            loss = evaluate(model)
    except Exception as error:
        raise InputError(
            f"evaluate: failed on {with_article(type(model).__name__)}: {type(error).__name__}: {error}",
            where=raised_at(error),
            found=f"{type(error).__name__}: {error}",
            needed="a function that is called with the dense model and with slim ones, and returns a loss",
            do="run evaluate(model) once by itself, and mend what it says",
        ) from error
    return loss_number(loss)
