"""Learning rates by step of a training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from graphprune.errors import InputError
from graphprune.utils.checks import (
    check_callable,
    check_count,
    check_known,
    check_positive,
    found_value,
    is_finite_number,
    shown,
)

Rates = Callable[[int], float]
"""The learning rate of a step, counted from 0."""


RateCurve = Callable[[float], float]
"""The learning rate as a fraction of the highest one, by the part of the training that is done (0 to 1)."""


def _cosine(done: float) -> float:
    """Half a cosine, 1 to 0: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017."""
    return 0.5 * (1 + math.cos(math.pi * done))


def _constant(done: float) -> float:
    """1 throughout."""
    return 1.0


def _linear(done: float) -> float:
    """A line from 1 to 0."""
    return 1 - done


def _is_rate(value: object) -> TypeGuard[float]:
    return is_finite_number(value) and value >= 0


@dataclass(frozen=True)
class Rewind:
    """The learning rates of the last steps of an earlier training, once more.

    Source: Renda, Frankle and Carbin, "Comparing Rewinding and Fine-tuning in Neural Network Pruning", ICLR 2020
    (learning-rate rewinding: the weights go on from where they are).

    Args:
        rates: the learning rate of every step of the training of the dense network, such as ``History.lr``.
    """

    rates: Sequence[float]

    def __post_init__(self) -> None:
        if not isinstance(self.rates, Sequence) or not all(map(_is_rate, self.rates)):
            raise InputError(
                f"rates: must be learning rates, but is {shown(self.rates)}",
                found=found_value(self.rates),
                needed="a sequence of finite numbers, 0 or more, the learning rate of every step",
                do="pass History.lr of the earlier training",
            )

    def by_step(self, total: int) -> Rates:
        """Raises: InputError: the earlier training was shorter than ``total`` steps."""
        if len(self.rates) < total:
            raise InputError(
                f"schedule: Rewind has the rates of {len(self.rates)} steps, but {total} are to be taken",
                found=f"{len(self.rates)} rates",
                needed=f"{total} or more",
                do="train for fewer epochs, or give the rates of every step of the earlier training",
            )
        return lambda step: float(self.rates[len(self.rates) - total + step])


RateSchedule = str | Rewind | RateCurve


CURVES: dict[str, RateCurve] = {"cosine": _cosine, "constant": _constant, "linear": _linear}


def check_rates(schedule: RateSchedule, lr: float | None) -> None:
    """Raise an InputError unless the two make learning rates."""
    if isinstance(schedule, Rewind):
        if lr is not None:
            raise InputError(
                f"lr: is {lr}, but schedule=Rewind(...) has rates of its own",
                found=f"lr={lr} and a Rewind",
                needed="one of them",
                do="leave out one of the two",
            )
        return
    check_positive("lr", lr, "the highest learning rate, a positive number")
    if callable(schedule):
        check_callable("schedule", schedule, "a function of the part of the training that is done", takes="done")
    else:
        check_known("schedule", schedule, CURVES, ", a Rewind or a function")


def learning_rates(schedule: RateSchedule, lr: float | None, warmup: int, total: int) -> Rates:
    """The learning rate by step.

    Args:
        schedule: ``"cosine"``, ``"linear"``, ``"constant"``, a :class:`Rewind`, or a function of the part of the
            training that is done (0 to 1) that gives a factor of ``lr``.
        lr: the highest rate; None with a :class:`Rewind`, which has its own.
        warmup: so many steps at the beginning rise to the schedule's rate in a line.
        total: the number of steps of the training.

    Raises:
        InputError: an argument is out of its range.
    """
    check_rates(schedule, lr)
    if check_count("warmup", warmup, 0) > total:
        raise InputError(
            f"warmup: must be a number of steps, at most the {total} of the training, but is {warmup!r}",
            found=found_value(warmup),
            needed=f"at most {total} steps",
            do=f"pass warmup={total // 10}",
        )
    rates = schedule.by_step(total) if isinstance(schedule, Rewind) else _scaled(schedule, lr or 0.0, total)
    return lambda step: rates(step) * min(1.0, (step + 1) / (warmup + 1))


def _scaled(schedule: str | RateCurve, lr: float, total: int) -> Rates:
    curve = CURVES[schedule] if isinstance(schedule, str) else schedule

    def rate(step: int) -> float:
        factor = curve(step / total)
        if not _is_rate(factor):
            raise InputError(
                f"schedule: must give a factor of lr, but gave {shown(factor)}",
                where=f"step {step}",
                found=found_value(factor),
                needed="a function of the part of the training that is done, 0 to 1, which returns a number, 0 or more",
                do="return a number, such as schedule=lambda done: 1 - done",
            )
        return lr * factor

    return rate
