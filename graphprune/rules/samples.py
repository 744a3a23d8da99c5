"""Sample calls that prove a rule: placeholders for tensors, and arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from graphprune.utils.arrays import Shape
from graphprune.utils.operators import Args, Kwargs


@dataclass(frozen=True)
class T:
    """A sample's float tensor of this shape; ``labeled``: the dimensions pruned in tests (default: all)."""

    shape: Shape
    labeled: tuple[int, ...] | None = None
    kind: str = "float"


def t(*shape: int, labeled: Sequence[int] | None = None) -> T:
    """A float tensor argument of a sample."""
    return T(shape, None if labeled is None else tuple(labeled))


def ints(*shape: int, below: int, labeled: Sequence[int] = ()) -> T:
    """An integer tensor argument of a sample, with values in ``[0, below)``; none of its dimensions is pruned."""
    return T(shape, tuple(labeled), kind=f"int{below}")


def positive(*shape: int) -> T:
    """A float tensor argument of a sample with values above zero (a variance)."""
    return T(shape, kind="positive")


def fractions(*shape: int) -> T:
    """A float tensor argument of a sample with values between zero and one (a probability)."""
    return T(shape, kind="fraction")


def complexes(*shape: int, labeled: Sequence[int] | None = None) -> T:
    """A complex tensor argument of a sample."""
    return T(shape, None if labeled is None else tuple(labeled), kind="complex")


def bools(*shape: int) -> T:
    """A boolean tensor argument of a sample."""
    return T(shape, kind="bool")


def whole_rows(*shape: int) -> T:
    """A boolean tensor argument of a sample that has one value along its last dimension, which is pruned."""
    return T(shape, (len(shape) - 1,), kind="rows")


@dataclass(frozen=True)
class Sample:
    """Arguments of one call that proves a rule (see ``tests/rules/test_rules.py``)."""

    args: Args
    kwargs: Kwargs = field(default_factory=dict)
    used: frozenset[int] | None = None

    def looking_at(self, *results: int) -> Sample:
        """The same call in a program that looks at these results only."""
        return Sample(self.args, self.kwargs, frozenset(results))


def sample(*args: Any, **kwargs: Any) -> Sample:
    """A sample call; tensors are written ``t(2, 8)``."""
    return Sample(args, kwargs)
