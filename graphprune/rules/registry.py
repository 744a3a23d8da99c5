"""The table of rules, and what a rule sees of the call it is about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from graphprune.errors import RuleError
from graphprune.rules.labels import LabelledTensor, Labels, all_arrays
from graphprune.rules.samples import Sample
from graphprune.utils.arrays import Shape
from graphprune.utils.operators import Args

RuleFunction = Callable[..., Any]
F = TypeVar("F", bound=Callable[..., Any])


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
    counts: dict[str, LabelledTensor] = field(default_factory=dict)
    used: frozenset[int] | None = None

    @property
    def out(self) -> Shape:
        return self.outs[0]

    def freeze(self, values: Any, text: str) -> None:
        """Fix all labels of ``values``; the reason starts with the operation's name."""
        self.labels.fix(all_arrays(values), f"{self.op}: {text}")

    def count(self, name: str, of: LabelledTensor) -> None:
        """Say what an integer argument counts that no dimension of a tensor shows (``groups``)."""
        self.counts[name] = of


@dataclass(frozen=True)
class Slim:
    """Shapes in the slim model, for the arguments of an operation that are sizes."""

    outs: tuple[Shape, ...]
    position: Callable[[int, int], int]
    counts: dict[str, int] = field(default_factory=dict)


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
) -> Callable[[F], F]:
    """Register the rule of ATen (or custom) operator overloads; by name (``"library::operator"``) where the library
    that brings them may not be loaded.

    The function is called as ``function(call, *args, **kwargs)`` with every tensor replaced by its
    :class:`~graphprune.rules.labels.LabelledTensor`, and returns the result's labels (a tuple for several results).

    Raises:
        RuleError: an operator has a rule already, or no samples are given.
    """
    if not samples:
        raise RuleError(f"samples: the rule of {ops[0]} has none; give at least one call that proves it")

    def register(function: F) -> F:
        for op in ops:
            table: dict[Any, Rule] = PENDING if isinstance(op, str) else RULES
            if op in table:
                raise RuleError(f"{op} has a rule already: {table[op].function.__qualname__}")
            table[op] = Rule(function, tuple(samples), resize, masked, reference)
        return function

    return register
