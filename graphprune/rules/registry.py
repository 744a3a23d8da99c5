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
    """One ATen call while it is labelled. ``out`` is the shape of its (first) result, ``outs`` of all.

    ``used`` are the numbers of the results that the program looks at (None: perhaps all of them).
    """

    op: str
    labels: Labels
    outs: tuple[Shape, ...]
    counts: dict[str, Labelled] = field(default_factory=dict)
    used: frozenset[int] | None = None

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


def ints(*shape: int, below: int, labelled: Sequence[int] = ()) -> T:
    """An integer tensor argument of a sample, with values in ``[0, below)``; none of its dimensions is pruned."""
    return T(shape, tuple(labelled), kind=f"int{below}")


def positive(*shape: int) -> T:
    """A float tensor argument of a sample with values above zero (a variance)."""
    return T(shape, kind="positive")


def complexes(*shape: int, labelled: Sequence[int] | None = None) -> T:
    """A complex tensor argument of a sample."""
    return T(shape, None if labelled is None else tuple(labelled), kind="complex")


def bools(*shape: int) -> T:
    """A boolean tensor argument of a sample."""
    return T(shape, kind="bool")


def whole_rows(*shape: int) -> T:
    """A boolean tensor argument of a sample that has one value along its last dimension, which is pruned."""
    return T(shape, (len(shape) - 1,), kind="rows")


@dataclass(frozen=True)
class Sample:
    """Arguments of one call that proves a rule (see ``tests/test_rules.py``)."""

    args: Args
    kwargs: dict[str, Any] = field(default_factory=dict)
    used: frozenset[int] | None = None

    def looking_at(self, *results: int) -> Sample:
        """The same call in a program that looks at these results only."""
        return Sample(self.args, self.kwargs, frozenset(results))


def sample(*args: Any, **kwargs: Any) -> Sample:
    """A sample call; tensors are written ``t(2, 8)``."""
    return Sample(args, kwargs)


@dataclass(frozen=True)
class Rule:
    """How one ATen operation treats labels.

    ``resize`` rewrites arguments that are sizes for the slim tensors; ``masked`` computes an operation that mixes
    channels on the dense tensors, with its statistics over the living ones only; ``reference`` computes an operation
    that torch cannot run in float64.
    """

    function: RuleFunction
    samples: tuple[Sample, ...]
    resize: Resize | None = None
    masked: Masked | None = None
    reference: Callable[..., Any] | None = None


RULES: dict[Any, Rule] = {}
PENDING: dict[str, Rule] = {}
"""Rules of operators of other libraries, by name, until one of them is seen."""


def rule_of(op: Any) -> Rule | None:
    """The rule of an operator overload."""
    found = RULES.get(op)
    if found is None and PENDING and op.name() in PENDING:
        found = RULES[op] = PENDING.pop(op.name())
    return found


def in_any_type(op: Any) -> Callable[..., Any]:
    """What computes an operation in float64 too: itself, or its rule's ``reference``."""
    found = rule_of(op)
    return found.reference if found is not None and found.reference is not None else op


def rule(
    *ops: Any,
    samples: Sequence[Sample],
    resize: Resize | None = None,
    masked: Masked | None = None,
    reference: Callable[..., Any] | None = None,
) -> Callable[[RuleFunction], RuleFunction]:
    """Register the rule of ATen (or custom) operator overloads; by name (``"library::operator"``) where the library
    that brings them may not be loaded.

    The function is called as ``function(call, *args, **kwargs)`` with every tensor replaced by its
    :class:`~graphprune.labels.Labelled`, and returns the result's labels (a tuple for several results).

    Raises:
        RuleError: an operator has a rule already, or no samples are given.
    """
    if not samples:
        raise RuleError(f"samples: the rule of {ops[0]} has none; give at least one call that proves it")

    def register(function: RuleFunction) -> RuleFunction:
        for op in ops:
            table: dict[Any, Rule] = PENDING if isinstance(op, str) else RULES
            if op in table:
                raise RuleError(f"{op} has a rule already: {table[op].function.__qualname__}")
            table[op] = Rule(function, tuple(samples), resize, masked, reference)
        return function

    return register
