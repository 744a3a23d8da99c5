"""Rules are proved on grids of rows and cells in which each row keeps other columns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from graphprune.graph.rule_check import RuleCheckError
from graphprune.rules import RULES
from graphprune.rules.labels import LabeledTensor
from graphprune.rules.registry import Call, Rule
from graphprune.rules.samples import Sample, sample, t
from tests.graph.grid_check import check_grid

aten = torch.ops.aten

SEEDS = 4

CASES = [(op, entry, one) for op, entry in RULES.items() for one in entry.samples]
NAMES = [f"{op}-{i}" for i, (op, _, _) in enumerate(CASES)]


def some_pass(op: Any, entry: Rule, one: Sample) -> bool:
    found = [check_grid(op, entry, one, seed, transposed) for seed in range(SEEDS) for transposed in (False, True)]
    return any(found)


@pytest.mark.parametrize(("op", "entry", "one"), CASES, ids=NAMES)
def test_pruning_commutes_where_rows_keep_other_columns(op: Any, entry: Rule, one: Sample) -> None:
    some_pass(op, entry, one)


@pytest.mark.parametrize(
    ("op", "one"),
    [
        (aten._softmax.default, sample(t(3, 6), 1, False)),
        (aten.cumsum.default, sample(t(3, 6), 1)),
        (aten.cumprod.default, sample(t(3, 6), 1)),
        (aten.sum.dim_IntList, sample(t(3, 6), [1])),
        (aten.mul.Tensor, sample(t(3, 6), t(3, 6))),
        (aten.permute.default, sample(t(3, 6), [1, 0])),
    ],
    ids=str,
)
def test_along_columns_and_entry_by_entry_rows_may_differ(op: Any, one: Sample) -> None:
    assert any(check_grid(op, RULES[op], one, seed) for seed in range(SEEDS))


def untied(call: Call, x: LabeledTensor, *_: Any, **__: Any) -> LabeledTensor:
    """Wrong along rows: columns are not tied."""
    call.labels.mixes_channels("test")
    return x


def in_order_only(call: Call, x: LabeledTensor, dim: int, **_: Any) -> LabeledTensor:
    """Wrong along rows: entries stay in order, but come into other columns."""
    for array in x.touching([dim]):
        call.labels.in_order(array.ids)
    return x


@pytest.mark.parametrize(
    ("op", "wrong", "one"),
    [
        (aten._softmax.default, untied, sample(t(3, 6), 0, False)),
        (aten.cumprod.default, untied, sample(t(3, 6), 0)),
        (aten.cumsum.default, in_order_only, sample(t(3, 6), 0)),
        (aten.renorm.default, untied, sample(t(3, 6), 2, 1, 1.0)),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_the_square_notices_a_rule_that_leaves_columns_untied(op: Any, wrong: Any, one: Sample) -> None:
    entry = replace(RULES[op], function=wrong, masked=RULES[op].masked or (lambda _, *args: op(*args)))
    with pytest.raises(RuleCheckError):
        some_pass(op, entry, one)
    assert not any(check_grid(op, RULES[op], one, seed) for seed in range(SEEDS))
