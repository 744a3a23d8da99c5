"""Every registered rule is taken through the commuting square (:mod:`graphprune.check_rule`) on its own samples."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torchvision  # noqa: F401  (brings operators whose rules are proved too)
from torch._ops import OpOverload

from graphprune.errors import RuleError
from graphprune.graph.rule_check import SEEDS, RuleCheckError, check_rule, check_square
from graphprune.rules import RULES
from graphprune.rules.contraction import mm
from graphprune.rules.labels import LabeledTensor
from graphprune.rules.pointwise import POINTWISE_SAMPLES, elementwise
from graphprune.rules.registry import PENDING, Call, Rule, rule, rule_of
from graphprune.rules.samples import Sample, sample, t

aten = torch.ops.aten
for library, operator in [name.split("::") for name in PENDING]:
    rule_of(getattr(getattr(torch.ops, library), operator).default)

# Every label of every sample is fixed: nothing can ever be removed through these.
FREEZES = frozenset(
    (
        aten.as_strided.default,
        aten.as_strided_.default,
        aten.nonzero.default,
        aten.masked_select.default,
        torch.ops.torchvision.nms.default,
        aten.embedding_renorm_.default,
        aten.histc.default,  # what it counts is pruned: see test_experts.py
    )
)

POINTWISE = Rule(elementwise, ())
CASES = [(op, entry, one) for op, entry in RULES.items() for one in entry.samples]
CASES += [(op, POINTWISE, one) for op, one in POINTWISE_SAMPLES]
NAMES = [f"{op}-{i}" for i, (op, _, _) in enumerate(CASES)]


@pytest.mark.parametrize(("op", "entry", "one"), CASES, ids=NAMES)
def test_pruning_commutes_with_the_operation(op: Any, entry: Rule, one: Sample) -> None:
    for seed in range(SEEDS):
        check_square(op, entry, one, seed)


SCHEMAS = {op: entry.function for op, entry in RULES.items() if isinstance(op, OpOverload)}


@pytest.mark.parametrize("op", SCHEMAS, ids=str)
def test_a_rule_takes_every_call_that_the_schema_allows(op: OpOverload) -> None:
    signature, arguments = inspect.signature(SCHEMAS[op]), op._schema.arguments
    positional = [a for a in arguments if not a.kwarg_only]
    named = {a.name: None for a in arguments if a.kwarg_only and not a.has_default_value()}
    needed = sum(not a.has_default_value() for a in positional)
    for count in range(needed, len(positional) + 1):
        signature.bind(None, *[None] * count, **named)
        signature.bind(None, *[None] * count, **{a.name: None for a in arguments if a.kwarg_only})


def removes_something(op: Any, entry: Rule, samples: Iterable[Sample]) -> bool:
    return any(check_square(op, entry, one, seed) for one in samples for seed in range(SEEDS))


@pytest.mark.parametrize("op", RULES, ids=str)
def test_samples_prove_something(op: Any) -> None:
    assert removes_something(op, RULES[op], RULES[op].samples) is (op not in FREEZES)


def test_a_rule_without_samples_is_refused() -> None:
    with pytest.raises(RuleError, match=r"samples: the rule of aten.hypot.default has none[\s\S]*at least one call"):
        rule(aten.hypot.default, samples=[])


def test_a_second_rule_of_an_operation_is_refused() -> None:
    with pytest.raises(RuleError, match=r"aten.mm.default has a rule already: mm"):
        rule(aten.mm.default, samples=[sample(t(2, 3), t(3, 2))])(elementwise)
    assert RULES[aten.mm.default].function is mm


def goes_red(op: Any, wrong: Rule, one: Sample) -> bool:
    """Does the square notice a wrong rule?"""
    try:
        for seed in range(SEEDS):
            check_square(op, wrong, one, seed)
    except RuleCheckError:
        return True
    return False


def unlabeled(call: Call, *_: Any, **__: Any) -> LabeledTensor:
    """Wrong: the result has no channels."""
    return LabeledTensor(call.out)


def uncontracted(call: Call, a: LabeledTensor, b: LabeledTensor) -> LabeledTensor:
    """Wrong: what is summed over need not agree."""
    outer = (array for x, d in ((a, 0), (b, 1)) for array in x.arrays if array.dims == {d})
    return LabeledTensor(call.out, tuple(outer))


def passing(call: Call, x: LabeledTensor, *_: Any, **__: Any) -> LabeledTensor:
    """Wrong for what mixes channels: it is not marked as inexact."""
    return LabeledTensor(call.out, x.arrays)


def without_rectangles(call: Call, x: LabeledTensor, *args: Any) -> LabeledTensor:
    """Wrong: a view that may leave rows of different lengths."""
    out = RULES[aten.view.default].function(call, x, *args)
    call.labels.facts.rectangles.clear()
    return out


@pytest.mark.parametrize(
    ("op", "wrong", "one"),
    [
        (aten.mm.default, Rule(unlabeled, ()), sample(t(3, 4), t(4, 5))),
        (aten.mm.default, Rule(uncontracted, ()), sample(t(3, 4), t(4, 5))),
        (aten._softmax.default, Rule(passing, ()), sample(t(3, 4), 1, False)),
        (
            aten.mean.dim,
            replace(RULES[aten.mean.dim], masked=lambda _, x, d: x.mean(d)),
            sample(t(3, 4), [1]),
        ),
        (aten.amax.default, replace(RULES[aten.amax.default], masked=None), sample(t(3, 4), [1])),
        (aten.flip.default, Rule(passing, ()), sample(t(3, 4), [1])),
        (aten.slice.Tensor, replace(RULES[aten.slice.Tensor], resize=None), sample(t(2, 6), 1, 1, 4)),
        (aten.view.default, replace(RULES[aten.view.default], resize=None), sample(t(2, 6), [2, 2, 3])),
        (
            aten.view.default,
            replace(RULES[aten.view.default], function=without_rectangles),
            sample(t(6), [2, 3]),
        ),
        (aten.cumsum.default, Rule(unlabeled, ()), sample(t(3, 4), 1)),
    ],
)
def test_the_square_notices_a_wrong_rule(op: Any, wrong: Rule, one: Sample) -> None:
    assert goes_red(op, wrong, one)
    assert not goes_red(op, RULES[op], one)


def test_prove_wants_a_rule() -> None:
    with pytest.raises(
        RuleError, match=r"op: aten.hypot.default has no rule[\s\S]*register a rule with graphprune.rule"
    ):
        check_rule(aten.hypot.default)


def test_prove_counts_choices_and_notices_a_wrong_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_rule(aten.mm.default) > 0
    monkeypatch.setitem(RULES, aten.mm.default, Rule(uncontracted, (sample(t(3, 4), t(4, 5)),)))
    with pytest.raises(RuleError, match=r"aten.mm.default does not run on slim tensors"):
        check_rule(aten.mm.default)


def test_positions_of_a_maximum_hold_the_channels_that_are_compared() -> None:
    look_at_both = sample(t(3, 4, 2, labeled=[1]), 1)
    assert not any(check_square(aten.max.dim, RULES[aten.max.dim], look_at_both, seed) for seed in range(SEEDS))
    assert any(
        check_square(aten.max.dim, RULES[aten.max.dim], look_at_both.looking_at(0), seed) for seed in range(SEEDS)
    )
