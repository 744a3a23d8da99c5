"""What the records of rules say besides labels: positions that exist, counts that agree with torch's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.utils.flop_counter import FlopCounterMode

from graphprune.graph.rule_check import flatten, run_operation, sample_tensor
from graphprune.rules import RULES, Norm, Trait, product_macs
from graphprune.rules.matmul_view import SlidingKernel
from graphprune.rules.registry import Rule, RuleTable, has_trait, in_any_type, matmul_views, norm_call
from graphprune.rules.samples import Sample, T
from graphprune.utils.tree import replaced

aten = torch.ops.aten


def positions(record: Rule) -> Iterator[tuple[int | None, str]]:
    """Every position that a record names, and the type that the argument there must have."""
    norm = record.norm
    if norm is not None:
        yield from ((position, "Tensor") for position in (0, norm.weight, norm.bias, norm.mean, norm.variance))
        yield from ((norm.training, "bool"), (norm.eps, "float"))
    for view in record.matmul:
        yield from ((position, "Tensor") for position in (view.x, view.weight, view.bias))
        if view.kernel is not None:
            yield from ((view.kernel.transposed, "bool"), (view.kernel.groups, "int"))


def wrong_positions(op: Any, record: Rule) -> list[str]:
    """Positions at which an operator has no argument, or one of another type."""
    arguments = op._schema.arguments
    found = []
    for position, wanted in positions(record):
        if position is not None and position >= len(arguments):
            found.append(f"{op} has no argument {position}")
        elif position is not None and str(arguments[position].type).removeprefix("Optional[").rstrip("]") != wanted:
            found.append(f"{op}: {arguments[position].name} is no {wanted}")
    return found


RECORDS = [(op, record) for op, record in RULES.items() if record.norm or record.matmul]


@pytest.mark.parametrize(("op", "record"), RECORDS, ids=[str(op) for op, _ in RECORDS])
def test_positions_are_those_of_arguments(op: Any, record: Rule) -> None:
    assert wrong_positions(op, record) == []


@pytest.mark.parametrize(
    ("op", "norm", "message"),
    [
        (aten.native_batch_norm.default, Norm(weight=1, eps=9), "has no argument 9"),
        (aten.native_batch_norm.default, Norm(weight=1, training=6), "momentum is no bool"),
        (aten.native_layer_norm.default, Norm(weight=1, bias=2), "normalized_shape is no Tensor"),
    ],
)
def test_wrong_positions_are_noticed(op: Any, norm: Norm, message: str) -> None:
    assert any(message in found for found in wrong_positions(op, replace(RULES[op], norm=norm)))


def test_wrong_positions_of_a_kernel_are_noticed() -> None:
    record = RULES[aten.convolution.default]
    wrong = replace(record.matmul[0], kernel=SlidingKernel(transposed=8, groups=6))
    assert len(wrong_positions(aten.convolution.default, replace(record, matmul=(wrong,)))) == 2


# ---------------------------------------------------------------- the table


def test_rules_are_found_by_the_operator_itself() -> None:
    table, op, record = RuleTable(), aten.mm.default, RULES[aten.mm.default]
    table[op] = record
    assert op in table and aten.bmm.default not in table and table.get("mm") is None
    assert list(table.items()) == [(op, record)] and len(table) == 1
    with pytest.raises(KeyError, match="bmm"):
        table[aten.bmm.default]
    assert table.pop(op) is record
    assert not table and op not in table
    with pytest.raises(KeyError, match="mm"):
        del table[op]


# ---------------------------------------------------------------- multiply-adds


def counted(op: Any, record: Rule, one: Sample) -> tuple[int, int]:
    """The multiply-adds of a sample by the record, and by torch (half of its floating-point operations)."""
    generator, graph = torch.Generator().manual_seed(0), fx.Graph()
    args, kwargs = replaced(lambda x: sample_tensor(x, generator), (one.args, one.kwargs), (T, Tensor))

    def place(tensor: Tensor) -> fx.Node:
        node = graph.placeholder(f"x{len(graph.nodes)}")
        node.meta["shape"] = tuple(tensor.shape)
        return node

    node = graph.call_function(op, *replaced(place, (args, kwargs), Tensor))
    node.meta["shape"] = tuple(run_operation(in_any_type(op), args, kwargs)[0].shape)
    with FlopCounterMode(display=False) as counter:
        run_operation(in_any_type(op), args, kwargs)
    assert record.macs is not None
    return prod(n.meta["shape"][d] for n, d in record.macs(node)), counter.get_total_flops() // 2


COUNTED = [(op, record, one) for op, record in RULES.items() if record.macs for one in record.samples]
UNKNOWN = {
    aten.mv.default: (3 * 4,),
    aten.addmv.default: (3 * 4, 3 * 4),
    aten.dot.default: (4,),
    aten.addbmm.default: (2 * 3 * 4 * 5,) * 2,
    aten.vdot.default: (4,),
    aten._trilinear.default: (3 * 6 * 4 * 5, 3 * 4),
}
"""What torch does not count, by sample."""


@pytest.mark.parametrize(("op", "record", "one"), COUNTED, ids=[f"{op}-{i}" for i, (op, _, _) in enumerate(COUNTED)])
def test_multiply_adds_are_those_that_torch_counts(op: Any, record: Rule, one: Sample) -> None:
    mine, theirs = counted(op, record, one)
    if op is aten._grouped_mm.default and len(one.args) == 3:  # its reference leaves out rows behind the last end
        theirs = prod(one.args[0].shape) * one.args[1].shape[2]
    if op in UNKNOWN:
        theirs = UNKNOWN[op][record.samples.index(one)]
    assert mine == theirs > 0


def test_a_wrong_count_is_noticed() -> None:
    record = RULES[aten.addmm.default]
    mine, theirs = counted(aten.addmm.default, replace(record, macs=product_macs(0, 1)), record.samples[0])
    assert mine != theirs == counted(aten.addmm.default, record, record.samples[0])[0]


# ---------------------------------------------------------------- traits


SAMPLED = [(op, one) for op, record in RULES.items() for one in record.samples if record.traits]


def first_result(op: Any, one: Sample) -> tuple[Tensor, Tensor, tuple[Any, ...]]:
    """The first argument of a sample, the first result, and all arguments."""
    generator = torch.Generator().manual_seed(0)
    args, kwargs = replaced(lambda x: sample_tensor(x, generator), (one.args, one.kwargs), (T, Tensor))
    return next(flatten(args, Tensor)), run_operation(op, *replaced(Tensor.clone, (args, kwargs), Tensor))[0], args


def having(*traits: Trait) -> list[Any]:
    return [pytest.param(op, one, id=f"{op}-{i}") for i, (op, one) in enumerate(SAMPLED) if has_trait(op, *traits)]


@pytest.mark.parametrize(("op", "one"), having(Trait.MOVES, Trait.SHIFTS))
def test_what_moves_has_every_entry_once(op: Any, one: Sample) -> None:
    x, y, args = first_result(op, one)
    assert torch.equal(x.flatten().sort().values, y.flatten().sort().values)
    if has_trait(op, Trait.RESHAPES):
        assert torch.equal(y, x.reshape(args[1]))
    if has_trait(op, Trait.IDENTITY):
        assert torch.equal(x, y)


@pytest.mark.parametrize(("op", "one"), having(Trait.PICKS))
def test_what_picks_has_no_other_entries(op: Any, one: Sample) -> None:
    x, y, _ = first_result(op, one)
    assert torch.isin(y, x).all()


@pytest.mark.parametrize(("op", "one"), having(Trait.LIKE, Trait.SCATTERS, Trait.GATES, Trait.POWERS))
def test_results_of_the_shape_of_the_first_argument(op: Any, one: Sample) -> None:
    x, y, _ = first_result(op, one)
    assert y.shape == x.shape


@pytest.mark.parametrize(("op", "one"), having(Trait.GATES))
def test_gates_let_through_at_most_all(op: Any, one: Sample) -> None:
    x, _, _ = first_result(op, one)
    assert op(100 * x).abs().max() <= 1


@pytest.mark.parametrize(("op", "one"), having(Trait.BY_COLUMN))
def test_numbers_by_column_have_as_many_dimensions(op: Any, one: Sample) -> None:
    x, _, args = first_result(op, one)
    assert args[2].dtype == torch.int64 and (args[2].ndim == x.ndim or not args[2].numel())


ARITHMETIC = {
    Trait.ADDS: torch.add,
    Trait.SUBTRACTS: torch.sub,
    Trait.SCALES: torch.mul,
    Trait.DIVIDES: torch.div,
}


@pytest.mark.parametrize(("op", "one"), having(*ARITHMETIC))
def test_arithmetic_is_what_it_is_called(op: Any, one: Sample) -> None:
    x, y, args = first_result(op, one)
    (function,) = (f for trait, f in ARITHMETIC.items() if has_trait(op, trait))
    torch.testing.assert_close(y, function(x, args[1], **one.kwargs))


def test_products_of_stacks_say_what_they_multiply() -> None:
    found = [op for op in RULES if has_trait(op, Trait.BATCHED_PRODUCT)]
    assert found and all(matmul_views(op) for op in found)


# ---------------------------------------------------------------- arguments of a norm


def test_arguments_may_be_given_by_name() -> None:
    x = torch.randn(2, 4)
    call = norm_call(aten.native_layer_norm.default, (x, [4], None, None, 1e-5), {})
    assert call is not None and call.mean is None and not call.uses_running_statistics
    mean, variance = torch.randn(4), torch.rand(4)
    args = (x, None, None, mean, variance, False, 0.1)
    call = norm_call(aten.native_batch_norm.default, args, {"eps": 1e-3})
    assert call is not None and call.uses_running_statistics and call.eps == 1e-3
    torch.testing.assert_close(call.scale(), (variance + 1e-3).rsqrt().view(1, 4))
    new, kwargs = call.with_batch_statistics()
    out = aten.native_batch_norm.default(*new, **kwargs)[0]
    torch.testing.assert_close(out, (x - x.mean(0)) * (x.var(0, correction=0) + 1e-3).rsqrt())
    assert torch.equal(mean, args[3]) and new[3] is not mean
