"""The table of rules: what is known of each operation, and what a rule sees of the call it is about."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch._library.custom_ops import CustomOpDef
from torch._ops import OpOverload, OpOverloadPacket

from graphprune.errors import RuleError
from graphprune.rules.labels import LabeledTensor, Labels, all_arrays
from graphprune.rules.macs import MacsFunction
from graphprune.rules.matmul_view import MatmulView
from graphprune.rules.norm import Norm, NormCall
from graphprune.rules.samples import Sample
from graphprune.rules.traits import Trait
from graphprune.utils.arrays import Shape
from graphprune.utils.checks import found_value, is_defined_again, shown
from graphprune.utils.operators import Args

RuleFunction = Callable[..., Any]
F = TypeVar("F", bound=Callable[..., Any])


Resize = Callable[["Slim", Args], Args]


Masked = Callable[..., Any]


Sums = Callable[..., Sequence[tuple[int, Sequence[int]]]]
"""Called with the arguments of a call, of which tensors are nodes of a graph."""


@dataclass(frozen=True)
class Call:
    """One ATen call while it is labeled. ``out`` is the shape of its (first) result, ``outs`` of all.

    ``used`` are the numbers of the results that the program looks at (None: perhaps all of them).
    """

    op: str
    labels: Labels
    outs: tuple[Shape, ...]
    counts: dict[str, LabeledTensor] = field(default_factory=dict)
    used: frozenset[int] | None = None

    @property
    def out(self) -> Shape:
        return self.outs[0]

    def result(self, number: int) -> Call:
        """The same call as one of which this is the first result, for the rules that make one result."""
        return replace(self, outs=self.outs[number:])

    def freeze(self, values: Any, text: str) -> None:
        """Fix all labels of ``values``; the reason starts with the operation's name."""
        self.labels.fix(all_arrays(values), text, op=self.op)

    def count(self, name: str, of: LabeledTensor) -> None:
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
    """All that is known of one ATen operation. Everything but the function and the samples is optional.

    Attributes:
        function: what the operation does to labels.
        samples: calls that prove it.
        resize: rewrites arguments that are sizes for the slim tensors.
        masked: computes an operation that mixes channels on the dense tensors, with its statistics over the living
            entries only.
        reference: computes an operation that torch cannot run in float64.
        macs: the dimensions whose product is how many multiply-adds a call takes; None: it takes none.
        matmul: the ways of seeing it as a product of an input with a weight, the usual one first.
        norm: where a normalization has its statistics and factors.
        sums: of a call, what it multiplies and adds up: the positions of operands, and the dimensions of each over
            which the sum runs. A reduction to which zeros add nothing has one operand.
        traits: facts about it.
    """

    function: RuleFunction
    samples: tuple[Sample, ...]
    resize: Resize | None = None
    masked: Masked | None = None
    reference: Callable[..., Any] | None = None
    macs: MacsFunction | None = None
    matmul: tuple[MatmulView, ...] = ()
    norm: Norm | None = None
    sums: Sums | None = None
    traits: frozenset[Trait] = frozenset()


class RuleTable(MutableMapping[Any, Rule]):
    """Rules by their operators, which are told apart by identity: their own hash takes longer, and rules are looked up
    several times for every call of a program."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[Any, Rule]] = {}
        self.find = self._found.get
        """Operator and rule by the identity of the operator."""

    def __getitem__(self, op: Any) -> Rule:
        if id(op) not in self._found:
            raise KeyError(op)
        return self._found[id(op)][1]

    def __setitem__(self, op: Any, rule: Rule) -> None:
        self._found[id(op)] = op, rule

    def __delitem__(self, op: Any) -> None:
        if id(op) not in self._found:
            raise KeyError(op)
        del self._found[id(op)]

    def __iter__(self) -> Iterator[Any]:
        return iter([op for op, _ in self._found.values()])

    def __len__(self) -> int:
        return len(self._found)


RULES = RuleTable()


PENDING: dict[str, Rule] = {}
"""Rules of operators of other libraries, by name, until one of them is seen."""


# ---------------------------------------------------------------- lookups: also called for every operation that runs


def rule_of(op: Any) -> Rule | None:
    """The rule of an operator overload; None for anything else that a node may call."""
    known = RULES.find(id(op))
    if known is not None:
        return known[1]
    if not (PENDING and isinstance(op, OpOverload) and op.name() in PENDING):
        return None
    _check_results(op)
    found = RULES[op] = PENDING.pop(op.name())
    return found


def in_any_type(op: Any) -> Callable[..., Any]:
    """What computes an operation in float64 too: itself, or its rule's ``reference``."""
    found = rule_of(op)
    return found.reference if found is not None and found.reference is not None else op


def has_trait(op: Any, *traits: Trait) -> bool:
    """Is one of these facts true of an operation?"""
    found = rule_of(op)
    return found is not None and not found.traits.isdisjoint(traits)


def is_elementwise(op: Any, *traits: Trait) -> bool:
    """Is every entry of the result a function of the operands' entries at its place, as torch says; or is one of these
    facts true of the operation?"""
    return torch.Tag.pointwise in getattr(op, "tags", ()) or has_trait(op, *traits)


def macs_of(op: Any) -> MacsFunction | None:
    """How the multiply-adds of an operation are counted; None: it has none."""
    found = rule_of(op)
    return found.macs if found is not None else None


def matmul_views(op: Any) -> tuple[MatmulView, ...]:
    """The ways of seeing an operation as a product of an input with a weight, the usual one first."""
    found = rule_of(op)
    return found.matmul if found is not None else ()


def norm_of(op: Any) -> Norm | None:
    """Where an operation has its statistics and factors, if it is a normalization."""
    found = rule_of(op)
    return found.norm if found is not None else None


def norm_call(op: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> NormCall | None:
    """A call as one of a normalization, if the operation is one."""
    norm = norm_of(op)
    return NormCall(norm, op, args, kwargs) if norm is not None else None


# ---------------------------------------------------------------- registration


def rule(
    *ops: Any,
    samples: Sequence[Sample],
    resize: Resize | None = None,
    masked: Masked | None = None,
    reference: Callable[..., Any] | None = None,
    macs: MacsFunction | None = None,
    matmul: Sequence[MatmulView] = (),
    norm: Norm | None = None,
    sums: Sums | None = None,
    traits: Collection[Trait] = (),
) -> Callable[[F], F]:
    """Register what is known of operators: ATen overloads, or what ``torch.library.custom_op`` returned; by name
    (``"library::operator"``) where the library that brings them may not be loaded.

    The function is called as ``function(call, *args, **kwargs)`` with every tensor replaced by its
    :class:`~graphprune.rules.LabeledTensor`, and returns the result's labels (a tuple for several results). The other
    arguments are those of :class:`Rule`.

    Raises:
        RuleError: what is given is no operator, it has a rule already, it writes to its arguments and returns nothing
            (of one that is named, this is told where a program calls it), no list of samples is given, or an operator
            with ``matmul`` has several results. A function that is defined again (the cell of a notebook that is run
            twice) takes the place of the earlier one.
    """
    overloads = [overload_of(op) for op in ops]
    for op in overloads:
        _check_results(op)
    _check_samples(ops[0], samples)
    for op in overloads if matmul else ():
        _check_one_result(op)

    def register(function: F) -> F:
        record = Rule(
            function, tuple(samples), resize, masked, reference, macs, tuple(matmul), norm, sums, frozenset(traits)
        )
        for op in overloads:
            _make_room(op, function)
            table: MutableMapping[Any, Rule] = PENDING if isinstance(op, str) else RULES
            table[op] = record
        return function

    return register


def _make_room(op: OpOverload | str, function: RuleFunction) -> None:
    """Forget what the same definition registered when it ran before, under an operator's name or as it is.

    Raises:
        RuleError: the operator has a rule by another definition, or by this very function.
    """
    name = op if isinstance(op, str) else op.name()
    loaded = [other for other in RULES if other.name() == op] if isinstance(op, str) else [op] if op in RULES else []
    known = RULES[loaded[0]] if loaded else PENDING.get(name)
    if known is None:
        return
    if known.function is function or not is_defined_again(function, known.function):
        raise RuleError(
            f"{op} has a rule already: {known.function.__qualname__}",
            where=str(op),
            found=f"the rule {known.function.__module__}.{known.function.__qualname__}",
            needed="one rule for each operator",
            do="leave the second one out",
        )
    PENDING.pop(name, None)
    for other in loaded:
        del RULES[other]


def _check_samples(op: Any, samples: Any) -> None:
    if samples and not isinstance(samples, Sample):
        return
    raise RuleError(
        f"samples: the rule of {op} has {'none' if not samples else 'one that is in no list'}",
        where=str(op),
        found="no samples" if not samples else "a sample",
        needed="a list of at least one call that proves the rule",
        do="pass samples=[sample(...)], calls with which graphprune.check_rule can run it",
    )


def _check_results(op: OpOverload | str) -> None:
    """A rule relates arguments to results: of what an operator writes to alone, it would relate nothing."""
    if isinstance(op, str) or op._schema.returns or not op._schema.is_mutable:
        return
    raise RuleError(
        f"op: {op} returns nothing, and a rule says what becomes of results",
        where=str(op),
        found="an operator that writes to its arguments alone",
        needed="an operator that returns what it computes",
        do="call an operator that returns its result in the model; without a rule what goes in stays whole",
    )


def _check_one_result(op: OpOverload | str) -> None:
    results = 1 if isinstance(op, str) else len(op._schema.returns)
    if results > 1:
        raise RuleError(
            f"matmul: {op} has {results} results, and a product is one",
            where=str(op),
            found=f"an operator with {results} results",
            needed="an operator whose result is the product",
            do="leave matmul= out: channels are pruned without it, and repair leaves the weight alone",
        )


def overload_of(op: Any) -> OpOverload | str:
    """The overload that somebody means who names an operator, or its name.

    Raises:
        RuleError: it is no operator, or one of several overloads.
    """
    found = op._opoverload if isinstance(op, CustomOpDef) else op
    if isinstance(found, OpOverloadPacket) and len(found.overloads()) == 1:
        found = getattr(found, found.overloads()[0])
    if isinstance(found, OpOverload):
        return found
    if isinstance(found, str) and _NAME.fullmatch(found):
        return found.removesuffix(".default")
    several = [str(getattr(found, one)) for one in found.overloads()] if isinstance(found, OpOverloadPacket) else []
    raise RuleError(
        f"op: {shown(op)} is no operator of torch" + (f", but {len(several)} overloads" if several else ""),
        where=str(op),
        found=f"overloads {', '.join(several)}" if several else found_value(op),
        needed="an overload such as torch.ops.library.operator.default, what torch.library.custom_op returned, or a "
        "name 'library::operator'",
        do=f"write torch.ops.{several[0]}"
        if several
        else "look up the operator in torch.ops; functions of Python, torch.autograd.Function included, need no rule",
    )


_NAME = re.compile(r"\w+::\w+(\.\w+)?")
