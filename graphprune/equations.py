"""What sizes in the user's code demand of a choice of channels.

Every size that the program gave to ``view``, ``split``, a slice or ``groups=`` must, in the slim model, be the size
that the slim tensor has. Sizes are linear in the numbers of units kept: a :class:`Form` is a constant plus weighted
bags of atoms, each of which counts while it lives. The outcome (:class:`Demands`) is a list of forms that must be zero,
the atoms that must stay (a literal in the code), and for every integer attribute the dimension that tells its value.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from torch import fx, nn

from graphprune.label import Labelling
from graphprune.labels import Ids, Labelled
from graphprune.sizes import OPERATORS, Attr, BinOp, Const, Dim, Expr, Line, SizeUse, attributes_of
from graphprune.solve import Mask, Solution
from graphprune.trace import Trace


@dataclass(frozen=True, eq=False)
class Form:
    """``constant`` plus, for every ``(weight, atoms)``, the weight times the number of living atoms."""

    constant: Fraction
    bags: dict[bytes, tuple[Fraction, Ids]] = field(default_factory=dict)

    def plus(self, other: Form, factor: int | Fraction = 1) -> Form:
        bags = dict(self.bags)
        for key, (weight, atoms) in other.bags.items():
            total = bags.get(key, (Fraction(0), atoms))[0] + weight * factor
            bags[key] = total, atoms
        live = {k: b for k, b in bags.items() if b[0]}
        return Form(self.constant + other.constant * factor, live)

    def times(self, factor: int | Fraction) -> Form:
        return Form(Fraction(0)).plus(self, factor)

    @property
    def atoms(self) -> Ids:
        arrays = [atoms for _, atoms in self.bags.values()]
        return np.concatenate(arrays) if arrays else np.zeros(0, np.int64)


def number(value: int) -> Form:
    return Form(Fraction(value))


@dataclass(frozen=True)
class Equation:
    """``form == 0`` must hold for the units that are kept; ``line`` is where the code demands it."""

    form: Form
    line: Line | None


class NotLinear(Exception):
    """A size expression is not linear in the numbers of units; ``atoms`` are those involved."""

    def __init__(self, *forms: Form) -> None:
        super().__init__("a product or quotient of two sizes that may change")
        self.atoms = np.concatenate([f.atoms for f in forms])


@dataclass
class Demands:
    """What the sizes in a program demand; ``frozen`` maps atoms to the reason why they must stay."""

    equations: list[Equation] = field(default_factory=list)
    frozen: dict[int, str] = field(default_factory=dict)
    attributes: dict[str, SizeUse] = field(default_factory=dict)


class Sizes:
    """Sizes of traced tensors as functions of which of the ``selectable`` atoms live."""

    def __init__(self, labelling: Labelling, solution: Solution, selectable: Mask) -> None:
        self.labelling = labelling
        self.solution = solution
        self.selectable = selectable
        self._forms: dict[tuple[fx.Node, int | str, int | None], Form] = {}

    def labelled(self, node: fx.Node, dim: int | str) -> bool:
        """Does any label vary along this dimension?"""
        found = self.labelling.dimension(node, dim)
        return bool(found and found[0].touching([found[1]]))

    def dense(self, node: fx.Node, dim: int | str) -> int:
        found = self.labelling.dimension(node, dim)
        return found[0].shape[found[1]] if found else int(node.meta["shape"][dim])

    def count(self, alive: Mask, node: fx.Node, dim: int | str, stop: int | None = None) -> int:
        """The number of living entries (before ``stop``) when the classes ``alive`` live."""
        found = self.labelling.dimension(node, dim)
        if not found:
            return self.dense(node, dim) if stop is None else stop
        return self.count_in(alive, *found, stop)

    def count_in(self, alive: Mask, value: Labelled, dim: int, stop: int | None = None) -> int:
        """The number of living entries (before ``stop``) of one dimension of a labelled tensor."""
        if not value.touching([dim]):
            return value.shape[dim] if stop is None else stop
        return int(living(self.solution, alive, value, dim)[:stop].sum())

    def atoms(self, node: fx.Node, dim: int | str) -> Ids:
        """All atoms on which the size of a dimension may depend."""
        found = self.labelling.dimension(node, dim)
        labs = found[0].touching([found[1]]) if found else []
        classes = [self.solution.of[lab.ids.ravel()] for lab in labs]
        return np.unique(self.solution.expand(np.concatenate([np.zeros(0, np.int64), *classes]))[0])

    def needs(self, node: fx.Node, dim: int | str) -> Ids | None:
        """The atoms that each entry of a dimension needs, [2, n]; None where it also depends on other dimensions."""
        found = self.labelling.dimension(node, dim)
        labs = found[0].touching([found[1]]) if found else []
        if any(len(lab.dims) > 1 for lab in labs):
            return None
        pairs = [np.zeros((2, 0), np.int64)]
        for lab in labs:
            pairs.append(np.stack(self.solution.expand(self.solution.of[lab.ids.ravel()], np.arange(lab.ids.size))))
        return np.unique(np.concatenate(pairs, axis=1), axis=1)

    def form(self, node: fx.Node, dim: int | str, stop: int | None = None) -> Form:
        """The size of a dimension, or the number of its entries before ``stop``."""
        key = node, dim, stop
        if key not in self._forms:
            self._forms[key] = self._form(node, dim, stop)
        return self._forms[key]

    def _form(self, node: fx.Node, dim: int | str, stop: int | None) -> Form:
        found = self.labelling.dimension(node, dim)
        length = min(self.dense(node, dim), stop if stop is not None else 1 << 62)
        labs = found[0].touching([found[1]]) if found else []
        entries, atoms = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        place = found[1] if found else 0
        for lab in labs:
            at, atom = self._necessary(slot_classes(self.solution, lab.ids, place))
            if min(lab.dims) < place:
                at, atom = _without_rows(at, atom, self.dense(node, dim))
            entries.append(at[at < length])
            atoms.append(atom[at < length])
        return self._bag(np.concatenate(entries), np.concatenate(atoms), length)

    def _necessary(self, classes: Ids) -> tuple[Ids, Ids]:
        """Pairs (entry, atom) of selectable atoms that every alternative of the entry needs."""
        n, m = classes.shape
        atom, at = self.solution.expand(classes.ravel(), np.repeat(np.arange(n), m))
        keep = self.selectable[atom]
        atom, at = atom[keep], at[keep]
        if m == 1 or not len(atom):
            return at, atom
        pairs, counts = np.unique(at * len(self.selectable) + atom, return_counts=True)
        at, atom = np.divmod(pairs[counts >= m], len(self.selectable))
        return at, atom

    def _bag(self, entries: Ids, atoms: Ids, length: int) -> Form:
        if not len(atoms):
            return number(length)
        pairs = np.unique(entries * len(self.selectable) + atoms)
        entries, atoms = np.divmod(pairs, len(self.selectable))
        taken = 1 + np.count_nonzero(np.diff(entries))
        if taken < len(entries):
            raise NotLinear(Form(Fraction(0), {b"": (Fraction(1), atoms)}))
        atoms = np.sort(atoms)
        return Form(Fraction(length - taken), {atoms.tobytes(): (Fraction(1), atoms)})

    def rectangle(self, ids: Ids) -> list[Form]:
        """The numbers of living entries of the rows of ``ids``, apart from what a whole row needs; equal ones once."""
        rows, columns = ids.shape
        row = np.repeat(np.arange(rows), columns)
        atom, at, column = self.solution.expand(self.solution.of[ids.ravel()], row, np.tile(np.arange(columns), rows))
        keep = self.selectable[atom]
        if not keep.any():
            return []
        _, inverse, times = np.unique(
            at[keep] * len(self.selectable) + atom[keep], return_inverse=True, return_counts=True
        )
        inner = times[inverse] < columns
        at, atom, column = at[keep][inner], atom[keep][inner], column[keep][inner]
        if not len(at):
            return []
        order = np.argsort(at, kind="stable")
        starts = np.searchsorted(at[order], np.arange(1, rows))
        pieces = zip(np.split(column[order], starts), np.split(atom[order], starts), strict=True)
        different = {(c.tobytes(), a.tobytes()): (c, a) for c, a in pieces}
        return [self._bag(c, a, columns) for c, a in different.values()]


def _without_rows(at: Ids, atom: Ids, entries: int) -> tuple[Ids, Ids]:
    """Leave out atoms that every entry needs: they remove a whole row, and do not change its length."""
    _, inverse, times = np.unique(atom, return_inverse=True, return_counts=True)
    inner = times[inverse] < entries if len(atom) else np.zeros(0, bool)
    return at[inner], atom[inner]


def slot_classes(solution: Solution, ids: Ids, dim: int) -> Ids:
    """Classes by entry of ``dim``: outer dimensions at their first row, inner ones as alternatives."""
    outer = tuple(slice(0, 1) for _ in range(dim))
    return solution.of[ids[outer].reshape(ids.shape[dim], -1)]


def living(solution: Solution, alive: Mask, value: Labelled, dim: int) -> Mask:
    """Which entries of ``dim`` have any living element, in the outer row that has most of them.

    Rows are equally long where they live at all, but need not keep the same entries.
    """
    mask = np.ones((1,) * value.ndim, bool)
    for lab in value.labs:
        mask = mask & alive[solution.of[lab.ids]]
    rows = np.any(mask.reshape(-1, mask.shape[dim], int(np.prod(mask.shape[dim + 1 :]))), axis=2)
    return rows[int(rows.sum(axis=1).argmax())]


def _inverse(op: str, left: bool, known: Form, size: Form) -> Form | None:
    """The operand on the ``left`` (or right) of an operation that makes ``size`` of it and a ``known`` one."""
    if op == "+":
        return size.plus(known, -1)
    if op == "-":
        return size.plus(known) if left else known.plus(size, -1)
    if known.bags or not known.constant or op == "%":
        return None
    if op == "*":
        return size.times(1 / known.constant)
    return size.times(known.constant) if left else None


class Reader:
    """Reads the size log of one trace and collects its demands."""

    def __init__(self, trace: Trace, sizes: Sizes) -> None:
        self.sizes = sizes
        self.trace = trace
        self.demands = Demands()
        self.forms: dict[str, Form] = {}

    def read(self) -> Demands:
        log = self.trace.sizes
        uses = [u for u in log.uses if not self._rebuilt(u.module)]
        self._define_attributes(uses)
        for use in log.uses:
            if self._rebuilt(use.module):
                self._define_heads(use)
        for use in uses:
            self._demand_use(use)
        for left, right, line, module in log.equalities:
            if not self._rebuilt(module):
                self._demand(left, right, line)
        for expr, line, module in log.numbers:
            if not self._rebuilt(module):
                self._demand_number(expr, line)
        for ids, _ in self.sizes.labelling.labels.facts.rectangles:
            self._demand_rectangle(ids)
        return self.demands

    def _rebuilt(self, module: str) -> bool:
        """torch.nn.MultiheadAttention works its sizes out itself; the rewriter rebuilds it."""
        return issubclass(self.trace.modules.get(module, nn.Module), nn.MultiheadAttention)

    def _define_attributes(self, uses: list[SizeUse]) -> None:
        """An attribute's value is the size of the first labelled dimension it was given for."""
        for use in uses:
            new = isinstance(use.expr, Attr) and not use.prefix and use.expr.path not in self.forms
            if new and self.sizes.labelled(use.node, use.dim):
                path = next(attributes_of(use.expr)).path
                self.demands.attributes[path] = use
                self.forms[path] = self._safe_form(use)
        for path, use in self._compared():
            if path not in self.forms:
                self.demands.attributes[path] = use
                self.forms[path] = self._safe_form(use)
        while any(self._invert(use) for use in uses) or any(self._invert(use, divisors=False) for use in uses):
            pass

    def _compared(self) -> Iterator[tuple[str, SizeUse]]:
        """``x.shape[-1] == self.width``: the attribute is the size of that dimension."""
        for left, right, line, module in self.trace.sizes.equalities:
            pairs = () if self._rebuilt(module) else ((left, right), (right, left))
            for size, attribute in pairs:
                if not (isinstance(size, Dim) and isinstance(attribute, Attr)):
                    continue
                if self.sizes.labelled(size.node, size.dim):
                    yield attribute.path, SizeUse(size.node, size.dim, attribute, line, module)

    def _define_heads(self, use: SizeUse) -> None:
        """``batch * num_heads``, with ``num_heads`` an attribute, in torch.nn.MultiheadAttention."""
        if isinstance(use.expr, BinOp) and use.expr.op == "*" and self.sizes.labelled(use.node, use.dim):
            for attribute in attributes_of(use.expr):
                self.demands.attributes.setdefault(attribute.path, use)

    def _safe_form(self, use: SizeUse) -> Form:
        try:
            return self.sizes.form(use.node, use.dim)
        except NotLinear as error:
            self._freeze(error.atoms, use.line, "two choices in one size")
            return number(self.sizes.dense(use.node, use.dim))

    def _invert(self, use: SizeUse, divisors: bool = True) -> bool:
        """``width - 4 * heads`` was given for a dimension: that tells the width, once the heads are known.

        Without ``divisors``, those of which nothing is known stay what they are.
        """
        if use.prefix or not self.sizes.labelled(use.node, use.dim):
            return False
        unknown = self._unknown(use.expr, divisors)
        form = self._solved(use.expr, unknown[0], self._safe_form(use)) if len(unknown) == 1 else None
        if form is None:
            return False
        self.demands.attributes[unknown[0].path] = use
        self.forms[unknown[0].path] = form
        return True

    def _unknown(self, expr: Expr, divisors: bool = True) -> list[Attr]:
        """The attributes in an expression that no size has told yet, as often as they occur."""
        if isinstance(expr, BinOp):
            right = self._unknown(expr.right, divisors) if divisors or expr.op != "//" else []
            return self._unknown(expr.left, divisors) + right
        return [expr] if isinstance(expr, Attr) and expr.path not in self.forms else []

    def _solved(self, expr: Expr, unknown: Attr, size: Form) -> Form | None:
        """What the attribute ``unknown`` is where ``expr`` is ``size``; None: it is not linear in it."""
        if not isinstance(expr, BinOp):
            return size
        left = unknown in attributes_of(expr.left)
        try:
            known = self._evaluate(expr.right if left else expr.left)
        except NotLinear:
            return None
        size_of_side = _inverse(expr.op, left, known, size)
        return None if size_of_side is None else self._solved(expr.left if left else expr.right, unknown, size_of_side)

    def _demand_use(self, use: SizeUse) -> None:
        stop = use.expr.value if use.prefix else None
        labelled = self.sizes.labelled(use.node, use.dim)
        if not labelled and isinstance(use.expr, Const):
            return
        try:
            size = self.sizes.form(use.node, use.dim, stop) if labelled else number(use.expr.value)
            self._require(size, use.expr, use.line)
        except NotLinear as error:
            if use.prefix or not self._same(use.node, use.dim, use.expr):
                self._freeze(error.atoms, use.line, f"size {use.expr}")

    def _same(self, node: fx.Node, dim: int | str, expr: Expr) -> bool:
        """Is the expression the size of a dimension of which the same entries live?"""
        if not isinstance(expr, Dim):
            return False
        one, other = self.sizes.needs(node, dim), self.sizes.needs(expr.node, expr.dim)
        return one is not None and other is not None and np.array_equal(one, other)

    def _demand(self, left: Expr, right: Expr, line: Line | None) -> None:
        try:
            self._require(self._evaluate(left), right, line)
        except NotLinear as error:
            if not (isinstance(left, Dim) and self._same(left.node, left.dim, right)):
                self._freeze(error.atoms, line, f"{left} == {right}")

    def _require(self, size: Form, expr: Expr, line: Line | None) -> None:
        if isinstance(expr, BinOp) and expr.op == "//" and (divisor := self._evaluate(expr.right)).bags:
            if size.bags:
                raise NotLinear(size, divisor)
            difference = self._evaluate(expr.left).plus(divisor, -size.constant)
        else:
            difference = size.plus(self._evaluate(expr), -1)
        if not difference.bags:
            return
        if isinstance(expr, Const):
            self._freeze(difference.atoms, line, f"the size {expr} is a literal")
        else:
            self.demands.equations.append(Equation(difference, line))

    def _evaluate(self, expr: Expr) -> Form:
        if isinstance(expr, Const):
            return number(expr.value)
        if isinstance(expr, Attr):
            return self.forms.get(expr.path, number(expr.value))
        if isinstance(expr, Dim):
            return self.sizes.form(expr.node, expr.dim)
        left, right = self._evaluate(expr.left), self._evaluate(expr.right)
        if expr.op in "+-":
            return left.plus(right, 1 if expr.op == "+" else -1)
        if expr.op == "*" and not left.bags:
            return right.times(left.constant)
        if right.bags and expr.op == "//" and left.bags:
            return self._kept_quotient(expr, left, right)
        if right.bags or (expr.op in "//%" and (not right.constant or (expr.op == "%" and left.bags))):
            raise NotLinear(left, right)
        if expr.op in "//%" and not left.bags:
            return number(OPERATORS[expr.op](int(left.constant), int(right.constant)))
        return left.times(right.constant if expr.op == "*" else 1 / right.constant)

    def _kept_quotient(self, expr: BinOp, left: Form, right: Form) -> Form:
        """``width // heads`` within a larger expression: both may change, as long as the quotient stays."""
        quotient = expr.value
        if expr.left.value != quotient * expr.right.value:
            raise NotLinear(left, right)
        difference = left.plus(right, -quotient)
        if difference.bags:
            self.demands.equations.append(Equation(difference, None))
        return number(quotient)

    def _demand_number(self, expr: Expr, line: Line | None) -> None:
        """A size that is used as a number (``1 / sqrt(d)``) must stay what it is."""
        text = f"the size {expr} is used as a number"
        try:
            if isinstance(expr, BinOp):
                self._require(number(expr.value), expr, line)
            else:
                self._freeze(self._evaluate(expr).atoms, line, text)
        except NotLinear as error:
            self._freeze(error.atoms, line, text)

    def _demand_rectangle(self, ids: Ids) -> None:
        try:
            rows = self.sizes.rectangle(ids)
        except NotLinear as error:
            self._freeze(error.atoms, None, "rows and cells in one rectangle")
            return
        for row in rows[1:]:
            difference = row.plus(rows[0], -1)
            if difference.bags:
                self.demands.equations.append(Equation(difference, None))

    def _freeze(self, atoms: Ids, line: Line | None, text: str) -> None:
        where = f" ({line[0]}:{line[1]})" if line else ""
        for atom in np.unique(atoms).tolist():
            self.demands.frozen.setdefault(atom, text + where)


def read_demands(trace: Trace, labelling: Labelling, solution: Solution, selectable: Mask) -> Demands:
    """Collect what the sizes of a traced program demand of the ``selectable`` atoms."""
    return Reader(trace, Sizes(labelling, solution, selectable)).read()
