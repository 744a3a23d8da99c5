"""Sums over the gradients of samples: several criteria share one pass, which computes each gradient once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from graphprune.calibration.statistics import Gradients
from graphprune.importance.context import Context
from graphprune.utils.evaluation import eagerly


class GradientSum(Protocol):
    """What a criterion sums up of the gradients of each sample's loss."""

    def __init__(self, context: Context) -> None: ...

    def add(self, gradients: Gradients) -> None:
        """Add one sample, whose gradients are freed afterwards."""

    def result(self, samples: int) -> Any:
        """What the criterion reads, given the number of samples in all processes that share the batches."""


S = TypeVar("S", bound=GradientSum)
SUMS: dict[str, Callable[[Context], GradientSum]] = {}
"""How a sum begins, by the name of the criterion that reads it."""


def gradient_sum(criterion: str) -> Callable[[type[S]], type[S]]:
    """A decorator of the class of a criterion's sum, which is made with the context."""

    def register(kind: type[S]) -> type[S]:
        SUMS[criterion] = kind
        return kind

    return register


@eagerly()
def gather_gradients(context: Context, *names: str) -> None:
    """Work out what these criteria sum up, in one pass over the batches; what is known stays.

    Raises:
        InputError: as for :meth:`graphprune.calibration.statistics.Statistics.each_backward`.
    """
    data = context.data
    sums = {name: SUMS[name](context) for name in names if (name, context.reduce) not in data.gathered}
    if not sums:
        return

    def visit(gradients: Gradients) -> None:
        for one in sums.values():
            one.add(gradients)

    samples = data.each_backward(visit)
    for name, one in sums.items():
        data.gathered[name, context.reduce] = one.result(samples)


def gathered(context: Context, name: str) -> Any:
    """What one criterion sums up."""
    gather_gradients(context, name)
    return context.data.gathered[name, context.reduce]
