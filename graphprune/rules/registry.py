"""The table of rules, and what a rule sees of the call it is about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphprune.errors import RuleError
from graphprune.labels import Labelled, Labels, Shape, all_labs

Args = tuple[Any, ...]
RuleFunction = Callable[..., Any]
Resize = Callable[["Slim", Args], Args]
Masked = Callable[..., Any]


@dataclass(frozen=True)
class Call:
    """One ATen call while it is labelled. ``out`` is the shape of its (first) result, ``outs`` of all."""

    op: str
    labels: Labels
    outs: tuple[Shape, ...]
    counts: dict[str, Labelled] = field(default_factory=dict)

    @property
    def out(self) -> Shape:
        return self.outs[0]

    def freeze(self, values: Any, text: str) -> None:
        """Fix all labels of ``values``; the reason starts with the operation's name."""
        self.labels.fix(all_labs(values), f"{self.op}: {text}")

    def count(self, name: str, of: Labelled) -> None:
        """Say what an integer argument counts that no dimension of a tensor shows (``groups``)."""
        self.counts[name] = of


@dataclass(frozen=True)
class Slim:
    """Shapes in the slim model, for the arguments of an operation that are sizes."""

    outs: tuple[Shape, ...]
    position: Callable[[int, int], int]
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class T:
    """A sample's float tensor of this shape; ``labelled``: the dimensions pruned in tests (default: all)."""

    shape: Shape
    labelled: tuple[int, ...] | None = None
    kind: str = "float"


def t(*shape: int, labelled: Sequence[int] | None = None) -> T:
    """A float tensor argument of a sample."""
    return T(shape, None if labelled is None else tuple(labelled))


def ints(*shape: int, below: int) -> T:
    """An integer tensor argument of a sample, with values in ``[0, below)``."""
    return T(shape, (), kind=f"int{below}")


def positive(*shape: int) -> T:
    """A float tensor argument of a sample with values above zero (a variance)."""
    return T(shape, kind="positive")


def bools(*shape: int) -> T:
    """A boolean tensor argument of a sample."""
    return T(shape, kind="bool")


@dataclass(frozen=True)
class Sample:
    """Arguments of one call that proves a rule (see ``tests/test_rules.py``)."""

    args: Args
    kwargs: dict[str, Any] = field(default_factory=dict)


def sample(*args: Any, **kwargs: Any) -> Sample:
    """A sample call; tensors are written ``t(2, 8)``."""
    return Sample(args, kwargs)


@dataclass(frozen=True)
class Rule:
    """How one ATen operation treats labels.

    ``resize`` rewrites arguments that are sizes for the slim tensors; ``masked`` computes an operation that mixes
    channels on the dense tensors, with its statistics over the living ones only.
    """

    function: RuleFunction
    samples: tuple[Sample, ...]
    resize: Resize | None = None
    masked: Masked | None = None


RULES: dict[Any, Rule] = {}


def rule(
    *ops: Any,
    samples: Sequence[Sample],
    resize: Resize | None = None,
    masked: Masked | None = None,
) -> Callable[[RuleFunction], RuleFunction]:
    """Register the rule of ATen (or custom) operator overloads.

    The function is called as ``function(call, *args, **kwargs)`` with every tensor replaced by its
    :class:`~graphprune.labels.Labelled`, and returns the result's labels (a tuple for several results).

    Raises:
        RuleError: an operator has a rule already, or no samples are given.
    """
    if not samples:
        raise RuleError(f"samples: the rule of {ops[0]} has none; give at least one call that proves it")

    def register(function: RuleFunction) -> RuleFunction:
        for op in ops:
            if op in RULES:
                raise RuleError(f"{op} has a rule already: {RULES[op].function.__qualname__}")
            RULES[op] = Rule(function, tuple(samples), resize, masked)
        return function

    return register
