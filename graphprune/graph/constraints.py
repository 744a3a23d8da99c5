"""What sizes in the user's code demand of a choice of channels.

Every size that the program gave to ``view``, ``split``, a slice or ``groups=`` must, in the slim model, be the size
that the slim tensor has. Sizes are linear in the numbers of units kept (a
:class:`~graphprune.graph.linear_expressions.LinearExpression`). The outcome, :class:`SizeConstraints`, is a list of
expressions that must be zero, the units that must stay (a literal in the code), and for every integer attribute the
dimension that tells its value.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from torch import fx

from graphprune.graph.groups import Units, WhyFrozen
from graphprune.graph.linear_expressions import LinearExpression, NotLinear, constant_expression
from graphprune.graph.literals import NOT_USED, UsedSize, literal_reason, used_size
from graphprune.graph.rectangles import Rectangles
from graphprune.graph.size_model import SizeModel, merged_needs
from graphprune.graph.solve import KINDS
from graphprune.graph.statistic_scales import StatisticScales
from graphprune.graph.unread import is_of_inputs
from graphprune.tracing.sizes import OPERATORS, Attr, BinOp, Const, Dim, Expr, Line, SizeUse, attributes_of, dims_of
from graphprune.tracing.tracer import Trace
from graphprune.utils.arrays import Ids


@dataclass(frozen=True)
class Equation:
    """``expression == 0`` must hold for the units that are kept.

    Attributes:
        line: where the code demands it.
        number: the size that the code uses as a number there; else it is one of a tensor.
    """

    expression: LinearExpression
    line: Line | None
    number: str = ""


@dataclass
class SizeConstraints:
    """What the sizes in a program demand.

    Attributes:
        equations: what must be zero.
        frozen: units that must stay, and why.
        products: units of which some must stay, since a size multiplies or divides their numbers, and why: those that
            are in ``frozen`` may be enough.
        attributes: by the path of an integer attribute, the size that tells its value.
        multiples: units, and a number of which they must be a multiple for attributes to be whole numbers.
    """

    equations: list[Equation] = field(default_factory=list)
    frozen: dict[int, WhyFrozen] = field(default_factory=dict)
    products: dict[int, WhyFrozen] = field(default_factory=dict)
    attributes: dict[str, SizeUse] = field(default_factory=dict)
    multiples: list[tuple[Ids, int]] = field(default_factory=list)

    def copy(self) -> SizeConstraints:
        """The same, to be added to."""
        return SizeConstraints(
            list(self.equations), dict(self.frozen), dict(self.products), dict(self.attributes), list(self.multiples)
        )


def _inverse(op: str, left: bool, known: LinearExpression, size: LinearExpression) -> LinearExpression | None:
    """The operand on the ``left`` (or right) of an operation that makes ``size`` of it and a ``known`` one."""
    if op == "+":
        return size.plus(known, -1)
    if op == "-":
        return size.plus(known) if left else known.plus(size, -1)
    if op == "//" and not left:
        return None if size.terms or not size.constant else known.times(1 / size.constant)
    if op == "//" and known.terms:
        return None if size.terms else known.times(size.constant)
    if known.terms or not known.constant or op == "%":
        return None
    if op == "*":
        return size.times(1 / known.constant)
    return size.times(known.constant)


def _literal_tail(use: SizeUse) -> int:
    """``x[:, -8:]``: the position is where so many entries are left, as a literal says; 0: it is another one."""
    expr = use.expr
    if not (use.prefix and isinstance(expr, BinOp) and expr.op == "+" and isinstance(expr.right, Const)):
        return 0
    whole = isinstance(expr.left, Dim) and (expr.left.node, expr.left.dim) == (use.node, use.dim)
    return -expr.right.value if whole else 0


def _literal_of(expr: Expr) -> int:
    """The number that a size is, or that another one is multiplied by; 0: there is none."""
    if isinstance(expr, Const):
        return expr.value
    sides = (expr.left, expr.right) if isinstance(expr, BinOp) and expr.op == "*" else ()
    return next((side.value for side in sides if isinstance(side, Const)), 0)


class ConstraintBuilder:
    """Reads the size log of one trace and collects its constraints."""

    def __init__(self, trace: Trace, sizes: SizeModel, units: Units, scales: StatisticScales) -> None:
        self.sizes = sizes
        self.units = units
        self.scales = scales
        self.trace = trace
        self.constraints = SizeConstraints()
        self.expressions: dict[str, LinearExpression] = {}

    def read(self, rectangles: Rectangles | None = None) -> SizeConstraints:
        """The constraints of the whole log, and of the rows of ``rectangles``, which lose equally many entries."""
        log = self.trace.sizes
        uses = [u for u in log.uses if not self._rebuilt(u.module)]
        self._define_attributes(uses)
        for use in log.uses:
            if self._rebuilt(use.module):
                self._define_heads(use)
        for use in uses:
            self._constrain_use(use)
        for left, right, line, module in log.equalities:
            if not self._rebuilt(module):
                self._constrain(left, right, line)
        for (left, right), (line, module) in log.orderings.items():
            if not self._rebuilt(module):
                self._constrain_ordering(left, right, line)
        counts = {(line, module) for expr, line, module in log.numbers if self._counts(expr, module)}
        for expr, line, module in log.numbers:
            if not self._rebuilt(module) and (line, module) not in counts:
                self._constrain_number(expr, line)
        if rectangles is not None:
            for number in np.flatnonzero(rectangles.varying(self.sizes.selectable)).tolist():
                self._constrain_rectangle(rectangles.labels[number])
        return self.constraints

    def _rebuilt(self, module: str) -> bool:
        """torch.nn.MultiheadAttention works its sizes out itself; the rewriter rebuilds it."""
        return module in self.trace.replaceable

    def _define_attributes(self, uses: list[SizeUse]) -> None:
        """An attribute's value is the size of the first labeled dimension it was given for."""
        for use in uses:
            new = isinstance(use.expr, Attr) and not use.prefix and use.expr.path not in self.expressions
            if new and self.sizes.labeled(use.node, use.dim):
                path = next(attributes_of(use.expr)).path
                self.constraints.attributes[path] = use
                self.expressions[path] = self._safe_expression(use)
        for path, use in self._compared():
            if path not in self.expressions:
                self.constraints.attributes[path] = use
                self.expressions[path] = self._safe_expression(use)
        whole, positions = [u for u in uses if not u.prefix], [u for u in uses if u.prefix]
        composed = [use for use in (*whole, *positions) if isinstance(use.expr, BinOp)]
        while (
            any(map(self._invert, whole))
            or any(self._invert(use, divisors=False) for use in whole)
            or any(map(self._invert, positions))
            or any(map(self._fix_factors, composed))
        ):
            pass
        for number, _, _ in self.trace.sizes.numbers:
            self._follow_divisor(number)

    def _follow_divisor(self, number: Expr) -> None:
        """``width // heads``, used as a number: a width of which no size tells goes in step with the heads.

        So it does where each of the heads has as many channels as the number says, which then stays as it is.
        """
        if not (isinstance(number, BinOp) and number.op == "//" and isinstance(number.left, Attr)):
            return
        width, heads, each = number.left, number.right, number.value
        told = self.constraints.attributes.get(heads.path) if isinstance(heads, Attr) else None
        if told is None or told.expr != heads or width.path in self.expressions or width.value != each * heads.value:
            return
        within = told.node.meta["shape"][told.dim + 1 :][:1] if isinstance(told.dim, int) else ()
        if width.path not in self._whole and tuple(within) == (each,):
            self.expressions[width.path] = self._evaluate(heads).times(each)
            self.constraints.attributes[width.path] = replace(told, expr=BinOp("//", width, Const(each)))

    def _fix_factors(self, use: SizeUse) -> bool:
        """``expand * width``, of which no size tells either: the greatest may change, and the others stay.

        So do those that are sizes of what has no channels, or are used as numbers, as far as one is left.
        """
        unknown = {attribute.path: attribute for attribute in self._unknown(use.expr)}
        if len(unknown) < 2 or not self.sizes.labeled(use.node, use.dim):
            return False
        greatest = max(unknown.values(), key=lambda one: (one.path not in self._told, one.value))
        self.expressions |= {
            path: constant_expression(one.value) for path, one in unknown.items() if one is not greatest
        }
        return True

    @cached_property
    def _told(self) -> set[str]:
        """The attributes that something else than channels says, or needs as a number."""
        numbers = (number for number, *_ in self.trace.sizes.numbers)
        return self._whole | {one.path for number in numbers for one in attributes_of(number)}

    @cached_property
    def _whole(self) -> set[str]:
        """The attributes that are sizes of what has no channels."""
        sizes = (use.expr for use in self.trace.sizes.uses if not self.sizes.labeled(use.node, use.dim))
        return {one.path for size in sizes for one in attributes_of(size)}

    def _compared(self) -> Iterator[tuple[str, SizeUse]]:
        """``x.shape[-1] == self.width``: the attribute is the size of that dimension."""
        for left, right, line, module in self.trace.sizes.equalities:
            pairs = () if self._rebuilt(module) else ((left, right), (right, left))
            for size, attribute in pairs:
                if not (isinstance(size, Dim) and isinstance(attribute, Attr)):
                    continue
                if self.sizes.labeled(size.node, size.dim):
                    yield attribute.path, SizeUse(size.node, size.dim, attribute, line, module)

    def _define_heads(self, use: SizeUse) -> None:
        """``batch * num_heads``, with ``num_heads`` an attribute, in torch.nn.MultiheadAttention."""
        if isinstance(use.expr, BinOp) and use.expr.op == "*" and self.sizes.labeled(use.node, use.dim):
            for attribute in attributes_of(use.expr):
                self.constraints.attributes.setdefault(attribute.path, use)

    def _safe_expression(self, use: SizeUse) -> LinearExpression:
        try:
            return self.sizes.expression(use.node, use.dim, use.position)
        except NotLinear as error:
            self._freeze_inner(error.units, use.line, "its size multiplies or divides sizes that may both change")
            return constant_expression(use.expr.value)

    def _invert(self, use: SizeUse, divisors: bool = True) -> bool:
        """``width - 4 * heads`` was given for a dimension: that tells the width, once the heads are known.

        A position, ``x[..., :heads * head_dim]``, tells it too, if it is a whole number for any number of units, or
        whole groups are before it, of which a multiple can be left.
        Without ``divisors``, those of which nothing is known stay what they are.
        """
        if not self.sizes.labeled(use.node, use.dim):
            return False
        unknown = self._unknown(use.expr, divisors)
        if len(unknown) != 1:
            return False
        expression = self._solved(use.expr, unknown[0], self._safe_expression(use), use.prefix and self._is_part(use))
        if expression is None:
            return False
        self.constraints.attributes[unknown[0].path] = use
        self.constraints.multiples += expression.multiples
        over = unknown[0].value - expression.dense  # what divisions leave over
        self.expressions[unknown[0].path] = expression.plus(LinearExpression(over)) if over else expression
        return True

    def _is_part(self, use: SizeUse) -> bool:
        """Are units of a group behind a position, and others of it before?"""
        before = np.unique(self._safe_expression(use).units)
        groups = np.unique(self.units.group_of[before]).tolist()
        return sum(self.units.groups[group].units if group >= 0 else 0 for group in groups) != len(before)

    def _unknown(self, expr: Expr, divisors: bool = True) -> list[Attr]:
        """The attributes in an expression that no size has told yet, as often as they occur."""
        if isinstance(expr, BinOp):
            right = self._unknown(expr.right, divisors) if divisors or expr.op != "//" else []
            return self._unknown(expr.left, divisors) + right
        return [expr] if isinstance(expr, Attr) and expr.path not in self.expressions else []

    def _solved(
        self, expr: Expr, unknown: Attr, size: LinearExpression, whole: bool = False
    ) -> LinearExpression | None:
        """What the attribute ``unknown`` is where ``expr`` is ``size``; None: it is not linear in it.

        ``whole``: neither if some numbers of units would make it a fraction.
        """
        if not isinstance(expr, BinOp):
            return size
        left = unknown in attributes_of(expr.left)
        try:
            known = self._evaluate(expr.right if left else expr.left)
        except NotLinear:
            return None
        side = _inverse(expr.op, left, known, size)
        if side is None or (whole and next(side.multiples, None) is not None):
            return None
        return self._solved(expr.left if left else expr.right, unknown, side, whole)

    def _constrain_use(self, use: SizeUse) -> None:
        labeled = self.sizes.labeled(use.node, use.dim)
        if not labeled and isinstance(use.expr, Const):
            return
        try:
            size = (
                self.sizes.expression(use.node, use.dim, use.position)
                if labeled
                else constant_expression(use.expr.value)
            )
            if labeled and (tail := _literal_tail(use)):
                whole = self.sizes.expression(use.node, use.dim)
                after = Counter(whole.units.tolist()) - Counter(size.units.tolist())
                self._freeze_literal(np.array([*after], np.int64), tail, use.line, used_size(use))
            else:
                self._require(size, use.expr, use.line, used_size(use))
        except NotLinear as error:
            if use.prefix or not self._same(use.node, use.dim, use.expr):
                self._freeze_inner(
                    error.units, use.line, f"the size {use.expr} multiplies or divides sizes that may both change"
                )

    def _same(self, node: fx.Node, dim: int | str, expr: Expr) -> bool:
        """Is the expression the size of a dimension of which the same entries live?

        Several that were merged are one, and what a merged one is divided by leaves the others.
        """
        own = self.sizes.needs(node, dim)
        if own is None or not isinstance(expr, BinOp) or expr.op != "//":
            return own is not None and (other := self._needs(expr)) is not None and np.array_equal(own, other)
        whole, part = self._needs(expr.left), self._needs(expr.right)
        if whole is None or part is None or expr.value * expr.right.value != expr.left.value:
            return False
        orders = ((part, own, expr.right.value, expr.value), (own, part, expr.value, expr.right.value))
        return any(np.array_equal(whole, merged_needs(*order)) for order in orders)

    def _needs(self, expr: Expr) -> Ids | None:
        """The units that each entry of a dimension of this size needs, as :meth:`SizeModel.needs`, if that is known."""
        if isinstance(expr, Dim):
            return self.sizes.needs(expr.node, expr.dim)
        if isinstance(expr, Const):
            return np.zeros((2, 0), np.int64)
        if not isinstance(expr, BinOp) or expr.op != "*":
            return None
        left, right = self._needs(expr.left), self._needs(expr.right)
        return None if left is None or right is None else merged_needs(left, right, expr.left.value, expr.right.value)

    def _constrain(self, left: Expr, right: Expr, line: Line | None) -> None:
        try:
            self._require(self._evaluate(left), right, line)
        except NotLinear as error:
            if not (isinstance(left, Dim) and self._same(left.node, left.dim, right)):
                self._freeze_inner(error.units, line, f"{left} == {right}")

    def _constrain_ordering(self, left: Expr, right: Expr, line: Line | None) -> None:
        """``min(x.shape[1], channels)``: which one is smaller must not change for inputs of any length."""
        for size, other in ((left, right), (right, left)):
            if is_of_inputs(other, self.sizes.labeling.values):
                try:
                    units = self._evaluate(size).units
                except NotLinear as error:
                    units = error.units
                self._freeze(units, line, f"the size {size} is compared with {other}, a size of the input")

    def _require(
        self, size: LinearExpression, expr: Expr, line: Line | None, use: UsedSize = NOT_USED, number: str = ""
    ) -> None:
        fixed = False
        if isinstance(expr, BinOp) and expr.op == "//" and (divisor := self._evaluate(expr.right)).terms:
            if size.terms:
                raise NotLinear(size, divisor)
            difference = self._evaluate(expr.left).plus(divisor, -size.constant)
        else:
            known = self._evaluate(expr)
            if known is size or not (known.terms or size.terms):
                return
            difference, fixed = size.plus(known, -1), not known.terms
        if not difference.terms:
            return
        literal = _literal_of(expr) if fixed else 0
        if literal:
            self._freeze_literal(difference.units, literal, line, use)
        else:
            self.constraints.equations.append(Equation(difference, line, number))

    def _evaluate(self, expr: Expr) -> LinearExpression:
        if isinstance(expr, Const):
            return constant_expression(expr.value)
        if isinstance(expr, Attr):
            return self.expressions.get(expr.path, constant_expression(expr.value))
        if isinstance(expr, Dim):
            return self.sizes.expression(expr.node, expr.dim)
        left, right = self._evaluate(expr.left), self._evaluate(expr.right)
        if expr.op in "+-":
            return left.plus(right, 1 if expr.op == "+" else -1)
        if expr.op == "*" and not left.terms:
            return right.times(left.constant)
        if right.terms and expr.op == "//" and left.terms:
            return self._kept_quotient(expr, left, right)
        if right.terms or (expr.op in "//%" and (not right.constant or (expr.op == "%" and left.terms))):
            raise NotLinear(left, right)
        if expr.op in "//%" and not left.terms:
            return constant_expression(OPERATORS[expr.op](int(left.constant), int(right.constant)))
        return left.times(right.constant if expr.op == "*" else 1 / right.constant)

    def _kept_quotient(self, expr: BinOp, left: LinearExpression, right: LinearExpression) -> LinearExpression:
        """``width // heads`` within a larger expression: both may change, as long as the quotient stays."""
        quotient = expr.value
        if expr.left.value != quotient * expr.right.value:
            raise NotLinear(left, right)
        difference = left.plus(right, -quotient)
        if difference.terms:
            self.constraints.equations.append(Equation(difference, None))
        return constant_expression(quotient)

    def _counts(self, expr: Expr, module: str) -> bool:
        """Is a number worked out from the count of channels that the module takes a statistic over?

        The check of the slim model's run sees what else the number is used for, and whether it changes as it may.
        """
        try:
            units = self._evaluate(expr).units
        except NotLinear:
            return False
        evaluated = all(self.trace.node_index(dim.node) < self.trace.evaluated for dim in dims_of(expr))
        return bool(len(units)) and evaluated and bool(np.isin(units, self.scales.units(module)).all())

    def _constrain_number(self, expr: Expr, line: Line | None) -> None:
        """A size that is used as a number (``1 / sqrt(d)``) must stay what it is."""
        text = f"the size {expr} is used as a number"
        try:
            if isinstance(expr, BinOp):
                self._require(constant_expression(expr.value), expr, line, number=str(expr))
            else:
                self._freeze(self._evaluate(expr).units, line, text)
        except NotLinear as error:
            self._freeze(error.units, line, text)

    def _constrain_rectangle(self, ids: Ids) -> None:
        try:
            rows = self.sizes.rectangle(ids)
        except NotLinear as error:
            self._freeze(error.units, None, "rows and cells in one rectangle")
            return
        for row in rows[1:]:
            difference = row.plus(rows[0], -1)
            if difference.terms:
                self.constraints.equations.append(Equation(difference, None))

    def _freeze_literal(self, units: Ids, size: int, line: Line | None, use: UsedSize) -> None:
        if not self.constraints.frozen.keys() >= set(units.tolist()):
            text, written = literal_reason(size, line, use)
            self._freeze(units, written, text)

    def _freeze_inner(self, units: Ids, line: Line | None, text: str) -> None:
        """Freeze factors of a product but for the outermost: heads may go where what is within them stays.

        Rows that are channels of something else too, such as the kernels of a graph convolution, stay themselves.
        """
        kind = self.sizes.solution.kind[units]
        kinds = map(KINDS.index, ("row", "repeat", "cell"))
        outer = next((number for number in kinds if (kind == number).any()), -1)
        inner = units[kind != outer]
        self._freeze(inner if len(inner) else units, line, text, self.constraints.products)

    def _freeze(self, units: Ids, line: Line | None, text: str, among: dict[int, WhyFrozen] | None = None) -> None:
        why = WhyFrozen(text, f"{line[0]}:{line[1]}" if line else "", " ({})")
        held = self.constraints.frozen if among is None else among
        for unit in np.unique(units).tolist():
            held.setdefault(unit, why)


def read_constraints(
    trace: Trace, sizes: SizeModel, units: Units, scales: StatisticScales, rectangles: Rectangles | None = None
) -> SizeConstraints:
    """Collect what the sizes of a traced program demand of the selectable units of ``sizes``, and equal rows."""
    return ConstraintBuilder(trace, sizes, units, scales).read(rectangles)
