"""Check a complete choice against every size and comparison in the user's code, and put its survivors in order."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from math import lcm

import numpy as np

from graphprune.graph.analysis import Analysis
from graphprune.graph.channel_order import Disorder, Orders, orders_of, ragged
from graphprune.graph.constraints import SizeConstraints
from graphprune.graph.groups import WhyFrozen
from graphprune.graph.living_sizes import LivingSizes
from graphprune.graph.size_model import SizeModel
from graphprune.tracing.sizes import COMPARISONS, OPERATORS, Attr, BinOp, Const, Expr, SizeUse, attributes_of, dims_of
from graphprune.utils.arrays import Ids, Mask

UNEVEN = "every head or group has to lose equally many channels"


@dataclass
class Selection:
    """One complete choice: which classes live, what attributes become, and where survivors change their order."""

    alive: Mask
    sizes: dict[str, int]
    orders: Orders = field(default_factory=dict)


@dataclass(frozen=True)
class Violations:
    """What would break, in words, with the units behind; ``disorder``: only the order of ragged survivors would."""

    causes: tuple[tuple[Ids, str], ...] = ()
    disorder: bool = False

    @cached_property
    def broken(self) -> Ids:
        """The units behind what would break."""
        return np.unique(np.concatenate([np.zeros(0, np.int64), *(units for units, _ in self.causes)]))

    def reasons(self, units: Iterable[int]) -> dict[int, str]:
        """Why each of these units has to stay."""
        wanted = set(units)
        found: dict[int, str] = {}
        for ids, why in reversed(self.causes):
            found.update((unit, why) for unit in ids.tolist() if unit in wanted)
        return found


def validate(graph: Analysis, constraints: SizeConstraints, alive: Mask) -> tuple[Selection, Violations]:
    """The choice with its attributes and orders, and whether it is sound."""
    sizes = graph.living_sizes(alive)
    selection = Selection(alive, _attribute_values(sizes, constraints))
    broken = tuple(_broken(graph, sizes, constraints, selection))
    if broken:
        return selection, Violations(broken)
    return selection, _put_in_order(graph, sizes.sizes, selection)


def _attribute_values(sizes: LivingSizes, constraints: SizeConstraints) -> dict[str, int]:
    """The new value of every attribute whose value changes; one that fits as it is stays."""
    values: dict[str, int] = {}
    for path, use in constraints.attributes.items():
        attribute = next(a for a in attributes_of(use.expr) if a.path == path)
        size = sizes.count(use.node, use.dim, use.position)
        if evaluate(use.expr, values, sizes) == size:
            continue
        new = _solved(use.expr, attribute, size, lambda e: evaluate(e, values, sizes))
        if new != attribute.value:
            values[path] = new
    return values


def _solved(expr: Expr, attribute: Attr, size: int, value: Callable[[Expr], int]) -> int:
    """What ``attribute`` must be for ``expr`` to be ``size``, as far as whole numbers can say.

    What a division leaves over stays over, if the divisor is greater.
    """
    if not isinstance(expr, BinOp):
        return size
    left = attribute in attributes_of(expr.left)
    other, known = value(expr.right if left else expr.left), (expr.right if left else expr.left).value
    over = expr.left.value % known if expr.op == "//" and left else 0
    inverse = {
        "+": size - other,
        "-": size + other if left else other - size,
        "*": size // max(other, 1),
        "//": size * other + (over if over < other else 0) if left else other // max(size, 1),
    }
    return _solved(expr.left if left else expr.right, attribute, inverse[expr.op], value)


def evaluate(expr: Expr, values: dict[str, int], sizes: LivingSizes) -> int:
    """What a size expression is in the slim model."""
    if isinstance(expr, Const):
        return expr.value
    if isinstance(expr, Attr):
        return values.get(expr.path, expr.value)
    if isinstance(expr, BinOp):
        right = evaluate(expr.right, values, sizes)
        if expr.op in ("//", "%") and not right:
            return 0
        return OPERATORS[expr.op](evaluate(expr.left, values, sizes), right)
    return sizes.count(expr.node, expr.dim)


def _broken(
    graph: Analysis, sizes: LivingSizes, constraints: SizeConstraints, selection: Selection
) -> Iterable[tuple[Ids, str]]:
    """The units behind every size in the user's code that would not be the size of the slim tensor, and what it is.

    Comparisons count too: a program that went one way because ``heads > 1`` must not go another way. No attribute
    becomes less than nothing, even where that is what equations ask for.
    """
    for use in _checked_uses(graph, sizes.sizes):
        wanted = sizes.count(use.node, use.dim, use.position)
        if evaluate(use.expr, selection.sizes, sizes) != wanted:
            where = f" ({use.line[0]}:{use.line[1]})" if use.line else ""
            units = sizes.sizes.units_behind(use.node, use.dim)
            yield units, f"the size {use.expr} would not fit{_multiple_of(units, constraints)}{where}"
    for path, value in selection.sizes.items():
        if value < 0:
            use = constraints.attributes[path]
            yield sizes.sizes.units_behind(use.node, use.dim), f"the size {path} would be less than nothing"
    for ids, number, _, why in graph.labeling.labels.facts.choices:
        for row in graph.solution.too_few(graph.solution.of[ids], number, selection.alive):
            yield graph.solution.expand(row)[0], why
    yield from ((units, UNEVEN) for units in _uneven(graph, selection.alive))
    for (symbol, left, right), outcome in graph.trace.sizes.comparisons.items():
        if isinstance(left, Attr) and isinstance(right, Const) and left.path not in selection.sizes:
            continue
        values = [evaluate(e, selection.sizes, sizes) for e in (left, right)]
        if COMPARISONS[symbol](*values) != outcome:
            why = f"{left} {symbol} {right} in the code would be {not outcome}"
            yield from ((units, why) for units in _units_behind(sizes.sizes, constraints, left, right))


def _multiple_of(units: Ids, constraints: SizeConstraints) -> str:
    """Of what the number of units must be a multiple that are left of these, if an attribute needs that."""
    numbers = [number for ids, number in constraints.multiples if np.isin(ids, units).all()]
    return f": what is left is no multiple of {lcm(*numbers)}" if numbers else ""


def _uneven(graph: Analysis, alive: Mask) -> Iterable[Ids]:
    """The units of rectangles of which a row keeps another number of entries, or none although it stays itself."""
    for ids in graph.rectangles.uneven(alive):
        classes = graph.solution.of[ids]
        left = alive[classes].sum(axis=1)
        if (left == left[0]).all():
            continue
        rest = left[left > 0]
        empty = _partly(graph, alive, classes[left == 0])
        emptied = (row for row in empty if not graph.solution.goes_whole(row, alive))
        if (rest != rest[0]).any() or next(emptied, None) is not None:
            yield graph.solution.expand(classes.ravel())[0]


def _partly(graph: Analysis, alive: Mask, rows: Ids) -> Ids:
    """The rows without those of which all entries are composed with one class that is gone. [rows, entries]"""
    parts = graph.solution.parts_of(rows)
    first = parts[:, :1]
    gone = (first >= 0) & ~alive[first] & (parts == first)
    left: Ids = rows[~gone.all(axis=1).any(axis=1)]
    return left


def _units_behind(sizes: SizeModel, constraints: SizeConstraints, *exprs: Expr) -> Iterable[Ids]:
    for expr in exprs:
        for dim in dims_of(expr):
            yield sizes.units_behind(dim.node, dim.dim)
        for attribute in attributes_of(expr):
            use = constraints.attributes.get(attribute.path)
            if use is not None:
                yield sizes.units_behind(use.node, use.dim)


def _checked_uses(graph: Analysis, sizes: SizeModel) -> Iterable[SizeUse]:
    for use in graph.trace.sizes.uses:
        if use.module not in graph.trace.replaceable and sizes.labeled(use.node, use.dim):
            yield use


def _put_in_order(graph: Analysis, sizes: SizeModel, selection: Selection) -> Violations:
    """Find the order of the survivors; where there is none, name the units of the ragged rectangles."""
    rectangles = ragged(graph.rectangles.ragged(selection.alive), graph.solution, selection.alive)
    try:
        selection.orders = orders_of(graph.labeling, sizes, selection.alive) if rectangles else {}
    except Disorder as error:
        classes = graph.solution.of[np.concatenate([ids.ravel() for ids in rectangles])]
        units = np.unique(graph.solution.expand(classes)[0])
        why = str(WhyFrozen.at("the channels that are left would stand in an order that does not fit", error.line))
        return Violations(((units, why),), disorder=True)
    return Violations()
