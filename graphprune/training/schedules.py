"""When how much is pruned: numbers only.

A *total* is the fraction of the dense model's channels that is gone so far, the *final* one where a schedule ends.
Every round prunes the model that is there, which is smaller than the dense one: :func:`of_present` says how much of
it a total means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from graphprune.errors import InputError
from graphprune.utils.checks import check_count, check_fraction, found_value, is_number, shown


class Schedule(Protocol):
    """How a total grows with the steps (of training, or rounds) that are done."""

    def ratio_at(self, step: int, final: float) -> float:
        """The total after ``step`` steps, between 0 and ``final``. It never falls."""
        ...


def check_step(step: int, counted: int) -> None:
    """Raise an InputError where a step lies before those that were counted already."""
    if check_count("step", step, 0) < counted:
        raise InputError(
            f"step: is {step}, but {counted} were counted already",
            found=f"step {step}",
            needed=f"{counted} or more",
            do="count all steps of the training, from its beginning",
        )


@dataclass(frozen=True)
class OneShot:
    """Everything at once, after ``step`` steps."""

    step: int = 0

    @property
    def last(self) -> int:
        """The step at which everything is gone that is to go."""
        return self.step

    def __post_init__(self) -> None:
        check_count("step", self.step, 0)

    def ratio_at(self, step: int, final: float) -> float:
        """The total after ``step`` steps."""
        return check_fraction("final", final) if check_count("step", step, 0) >= self.step else 0.0


@dataclass(frozen=True)
class Iterative:
    """The same fraction of what is left, round after round.

    Attributes:
        rounds: the number of rounds.
        frequency: steps from one round to the next; the first is after ``begin + frequency`` steps.
    """

    rounds: int
    begin: int = 0
    frequency: int = 1

    @property
    def last(self) -> int:
        """The step at which everything is gone that is to go."""
        return self.begin + self.rounds * self.frequency

    def __post_init__(self) -> None:
        check_count("rounds", self.rounds, 1)
        check_count("begin", self.begin, 0)
        check_count("frequency", self.frequency, 1)

    def ratio_at(self, step: int, final: float) -> float:
        """The total after ``step`` steps: of ``k`` rounds, ``1 - (1 - final) ** (k / rounds)``."""
        done = min(max(check_count("step", step, 0) - self.begin, 0) // self.frequency, self.rounds)
        gamma = per_round(final, self.rounds)
        return final if done == self.rounds else after(gamma, done)


@dataclass(frozen=True)
class Gradual:
    """Much at first, when much is redundant, and less and less: a cubic.

    Source: Zhu and Gupta, "To prune, or not to prune: exploring the efficacy of pruning for model compression", 2017.

    Attributes:
        begin, end: steps; nothing is gone at ``begin`` yet, and everything at ``end``.
        frequency: the total changes every so many steps after ``begin``, and at ``end``.
    """

    begin: int
    end: int
    frequency: int = 1

    @property
    def last(self) -> int:
        """The step at which everything is gone that is to go."""
        return self.end

    def __post_init__(self) -> None:
        check_count("begin", self.begin, 0)
        check_count("frequency", self.frequency, 1)
        if check_count("end", self.end, 0) <= self.begin:
            raise InputError(
                f"end: must be a step after begin={self.begin}, but is {self.end!r}",
                found=f"begin={self.begin} and end={self.end}",
                needed="begin < end",
                do=f"pass end={self.begin + 1000}, or an earlier begin=",
            )

    def ratio_at(self, step: int, final: float) -> float:
        """The total after ``step`` steps."""
        check_fraction("final", final)
        since = max(check_count("step", step, 0) - self.begin, 0)
        if step < self.end:
            since -= since % self.frequency
        left = 1 - min(since / (self.end - self.begin), 1.0)
        return final * (1 - left**3)


def per_round(final: float, rounds: int) -> float:
    """The fraction of what is left that goes in each of ``rounds`` equal rounds: ``final = 1 - (1 - g) ** rounds``.

    >>> per_round(0.75, 2)
    0.5
    """
    check_count("rounds", rounds, 1)
    return float(1 - (1 - check_fraction("final", final)) ** (1 / rounds))


def after(gamma: float, rounds: int) -> float:
    """The total after rounds of which each took the fraction ``gamma`` of what was left.

    >>> after(0.5, 2)
    0.75
    """
    check_count("rounds", rounds, 0)
    return float(1 - (1 - check_fraction("gamma", gamma)) ** rounds)


def of_present(total: float, done: float) -> float:
    """What fraction of the present model goes when the total is to rise from ``done`` to ``total``.

    >>> of_present(0.75, done=0.5)
    0.5
    """
    if check_fraction("total", total) < check_fraction("done", done):
        raise InputError(
            f"total: {total!r} is less than the {done!r} that is gone already",
            found=found_value(total),
            needed=f"{done!r} or more: pruning cannot be undone",
            do="ask for a total that only grows",
        )
    return 1 - (1 - total) / (1 - done)


def check_schedule(schedule: object) -> None:
    """Raise an InputError unless this is a schedule, and an instance."""
    if isinstance(schedule, type) or not callable(getattr(schedule, "ratio_at", None)):
        raise InputError(
            f"schedule: must be a schedule such as graphprune.Gradual, but is {shown(schedule)}",
            found=found_value(schedule),
            needed="a schedule with ratio_at(step, final)",
            do="pass graphprune.Gradual(begin=100, end=1000)",
        )


def total_at(schedule: Schedule, step: int, final: float) -> float:
    """What a schedule, which may be a user's, says of a step.

    Raises:
        InputError: it says no fraction.
    """
    total = schedule.ratio_at(step, final)
    if is_number(total) and 0 <= total <= 1:
        return float(total)
    raise InputError(
        f"schedule: ratio_at({step}, {final:g}) must be a fraction between 0 and {final:g}, but is {shown(total)}",
        where=f"{type(schedule).__name__}.ratio_at",
        found=found_value(total),
        needed="the fraction that is gone after so many steps, a number",
        do=f"return a number that grows from 0 to {final:g}",
    )


def remaining_at(schedule: Schedule, step: int, target: float) -> float:
    """The fraction of the dense cost that remains after ``step`` steps, on the way from 1 to ``target``."""
    check_fraction("target", target, "a fraction of the dense cost", zero=False, one=True)
    return 1 - total_at(schedule, step, 1 - target)
