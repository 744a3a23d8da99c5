"""Which operator a rule is for: an overload, what ``custom_op`` returned, or a name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphprune
from graphprune.errors import RuleError
from graphprune.rules import RULES, Call, LabeledTensor, elementwise, rule, sample, t
from graphprune.rules.registry import PENDING


@torch.library.custom_op("named::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x * 2


@twice.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("named::double_in_place", mutates_args=("x",))
def double_in_place(x: Tensor) -> None:
    x.mul_(2)


TWICE: Any = torch.ops.named.twice.default
SAMPLES = [sample(t(2, 6))]


def same(call: Call, x: LabeledTensor) -> LabeledTensor:
    return elementwise(call, x)


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    for op in (TWICE, torch.ops.named.double_in_place.default):
        RULES.pop(op, None)
        PENDING.pop(op.name(), None)


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.leave(twice(self.enter(x)))
        return found


@pytest.mark.parametrize(
    "op",
    [TWICE, torch.ops.named.twice, twice, "named::twice", "named::twice.default"],
    ids=lambda op: type(op).__name__,
)
def test_a_rule_is_found_however_its_operator_is_named(op: Any) -> None:
    rule(op, samples=SAMPLES)(same)
    assert graphprune.check_rule(op) > 0
    model, x = Doubled(), torch.randn(4, 5)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert slim.enter.out_features == 4
    assert graphprune.verify(model, slim, plan, x).passed


@pytest.mark.parametrize("op", ["named.twice", "twice", "", F.relu, None, nn.ReLU])
def test_what_is_no_operator_is_refused(op: Any) -> None:
    for call in (lambda: rule(op, samples=SAMPLES), lambda: graphprune.check_rule(op)):
        with pytest.raises(RuleError, match=r"is no operator of torch[\s\S]*torch.library.custom_op returned"):
            call()


def test_one_of_several_overloads_has_to_be_named() -> None:
    with pytest.raises(RuleError, match=r"but \d+ overloads[\s\S]*aten.hypot.default[\s\S]*write torch.ops."):
        rule(torch.ops.aten.hypot, samples=SAMPLES)


@pytest.mark.parametrize(("first", "second"), [("named::twice", TWICE), (TWICE, "named::twice"), (twice, twice)])
def test_a_second_rule_is_refused_under_another_name_too(first: Any, second: Any) -> None:
    rule(first, samples=SAMPLES)(same)
    with pytest.raises(RuleError, match="has a rule already: same"):
        rule(second, samples=SAMPLES)(same)


def defined(fixing: bool) -> Any:
    """What the cell of a notebook defines, each time that it is run."""

    def cell(call: Any, x: Any) -> Any:
        if fixing:
            call.freeze(x, "not yet known")
        return x

    cell.__qualname__ = "cell"
    return cell


@pytest.mark.parametrize(("first", "second"), [("named::twice", TWICE), (TWICE, "named::twice"), (TWICE, TWICE)])
def test_a_rule_that_is_defined_again_takes_the_place_of_the_earlier_one(first: Any, second: Any) -> None:
    model, x = Doubled(), torch.randn(4, 5)
    rule(first, samples=SAMPLES)(defined(fixing=True))
    assert not graphprune.trace(model, x).groups
    rule(second, samples=SAMPLES)(defined(fixing=False))
    assert graphprune.trace(model, x).groups


def test_operators_that_are_not_loaded_have_no_proof() -> None:
    with pytest.raises(RuleError, match=r"torch knows no operator 'named::thrice'[\s\S]*import the library"):
        graphprune.check_rule("named::thrice")


def test_operators_that_only_write_get_no_rule() -> None:
    with pytest.raises(RuleError, match=r"returns nothing[\s\S]*call an operator that returns its result"):
        rule(double_in_place, samples=SAMPLES)(same)


class DoubledInPlace(Doubled):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x) * 1
        double_in_place(y)
        return y


def test_operators_that_only_write_are_refused_by_name_where_they_run() -> None:
    rule("named::double_in_place", samples=SAMPLES)(same)
    for _ in range(2):
        with pytest.raises(RuleError, match="returns nothing, and a rule says what becomes of results"):
            graphprune.trace(DoubledInPlace(), torch.randn(4, 5)).plan(0.5)


def test_operators_without_results_have_no_proof() -> None:
    with pytest.raises(RuleError, match="returns nothing, so there is no result to compare"):
        graphprune.check_rule(torch.ops.aten._linalg_check_errors.default)


def test_a_list_of_labels_is_no_result() -> None:
    rule(twice, samples=SAMPLES)(lambda call, x: [x])
    with pytest.raises(RuleError, match=r"its rule returned \["):
        graphprune.trace(Doubled(), torch.randn(4, 5)).plan(0.5)
