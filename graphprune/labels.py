"""Labels: which channel keeps which tensor element alive.

A label is a positive integer. Every traced tensor carries label arrays that broadcast to its shape; an element
exists in the slim model as long as all of its labels are alive. Label 0 is always alive. A dimension in which
every label array has size 1 is *positional* (batch, time, space): it is never pruned.

Rules (``graphprune.rules``) say what an operation does to labels by calling the methods of :class:`Labels`, which only
write down facts, as whole arrays: ``unify`` (two labels are one), ``define`` (a label lives as long as two others
do) and ``fix`` (a label never dies). :mod:`graphprune.solve` draws the conclusions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Dims = frozenset[int]
Shape = tuple[int, ...]

NOT_A_CHANNEL = ""
"""The reason for fixing what nobody would call a channel (the size of a kernel): not reported."""


@lru_cache(maxsize=4096)
def varying(shape: Shape) -> Dims:
    """The dimensions of a shape that are larger than 1."""
    return frozenset(d for d, n in enumerate(shape) if n > 1)


class Lab(NamedTuple):
    """One label array of a tensor.

    ``ids`` has the tensor's rank, with size 1 where the label does not depend on a dimension. A ``cell`` array
    has been refined: its rows are labelled by another array of the same tensor.
    """

    ids: Ids
    cell: bool = False

    @property
    def dims(self) -> Dims:
        return varying(self.ids.shape)

    def at(self, ids: Ids) -> Lab:
        return Lab(ids, self.cell)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A tensor as rules see it: its shape and its label arrays. ``movable``: a parameter, only moved about.

    ``repeats``: the dimensions along which a mask, given to an operation, is known to have one value.
    ``points``: the labels of the dimension in which integers count (which expert a token goes to), if that is known.
    """

    shape: Shape
    labs: tuple[Lab, ...] = ()
    movable: bool = False
    repeats: Dims = frozenset()
    points: Ids | None = None

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def touching(self, dims: Iterable[int]) -> list[Lab]:
        wanted = {d % self.ndim for d in dims}
        return [lab for lab in self.labs if any(lab.ids.shape[d] > 1 for d in wanted)]

    def moved(self, shape: Sequence[int], labs: Iterable[Lab]) -> Labelled:
        return Labelled(tuple(shape), tuple(labs), self.movable, points=self.points)


@dataclass(frozen=True, slots=True)
class Axis:
    """A run of labels made together: a dimension of a parameter, or rows and cells made by a refinement."""

    kind: str
    name: str
    start: int
    size: int
    site: int


@dataclass(frozen=True, slots=True)
class Reason:
    """Why labels are fixed: what happened, at which node."""

    text: str
    site: int


@dataclass(slots=True)
class Facts:
    """What rules wrote down: whole arrays, with the site (node number) of each."""

    unions: list[tuple[Ids, Ids, int]] = field(default_factory=list)
    parts: list[tuple[Ids, Ids, Ids, int]] = field(default_factory=list)
    fixed: list[tuple[Ids, int]] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=list)
    rectangles: list[tuple[Ids, int]] = field(default_factory=list)
    ordered: list[tuple[Ids, int]] = field(default_factory=list)
    multiples: list[tuple[Ids, int, int]] = field(default_factory=list)
    choices: list[tuple[Ids, int, int]] = field(default_factory=list)
    inexact: dict[int, str] = field(default_factory=dict)


class Labels:
    """Makes labels and collects facts about them. ``site`` is the number of the node being labelled."""

    def __init__(self) -> None:
        self.count = 1
        self.axes: list[Axis] = []
        self.facts = Facts()
        self.site = -1

    def fresh(self, shape: Shape, dims: Sequence[int], kind: str, name: str = "") -> Ids:
        """New labels that vary over ``dims`` of a tensor of ``shape``."""
        sizes = [shape[d] if d in dims else 1 for d in range(len(shape))]
        total = math.prod(sizes)
        ids = np.arange(self.count, self.count + total, dtype=np.int64).reshape(sizes)
        self.axes.append(Axis(kind, name, self.count, total, self.site))
        self.count += total
        return ids

    def parameter(self, name: str, shape: Shape) -> Labelled:
        """A parameter or buffer: fresh labels for every dimension."""
        labs = [Lab(self.fresh(shape, [d], "channel", f"{name}[{d}]")) for d, n in enumerate(shape) if n > 1]
        return Labelled(tuple(shape), tuple(labs), movable=True)

    def unify(self, a: Ids, b: Ids) -> None:
        """Labels at the same place (with broadcasting) live and die together."""
        if a is not b:
            self.facts.unions.append((a, b, self.site))

    def define(self, whole: Ids, first: Ids, second: Ids) -> None:
        """``whole`` lives where both ``first`` and ``second`` live."""
        self.facts.parts.append((whole, first, second, self.site))

    def fix(self, labs: Iterable[Lab], text: str) -> None:
        """These labels never die; ``text`` says why."""
        labs = list(labs)
        if labs:
            self.facts.reasons.append(Reason(text, self.site))
            number = len(self.facts.reasons) - 1
            self.facts.fixed.extend((lab.ids, number) for lab in labs)

    def multiple(self, ids: Ids, of: int) -> None:
        """The number of living entries is a multiple of ``of``, or else the operation cannot run."""
        self.facts.multiples.append((ids, of, self.site))

    def chosen(self, ids: Ids, count: int) -> None:
        """The operation chooses ``count`` of ``ids`` by their values: so many must live."""
        self.facts.choices.append((ids, count, self.site))

    def rectangle(self, ids: Ids) -> None:
        """Every row of the two-dimensional ``ids`` has equally many living entries."""
        self.facts.rectangles.append((ids, self.site))

    def in_order(self, ids: Ids) -> None:
        """The operation depends on the order of ``ids``: the slim tensors must have it too."""
        self.facts.ordered.append((ids, self.site))

    def inexact(self, text: str) -> None:
        """The operation mixes channels: removing one is not the same as zeroing it."""
        self.facts.inexact[self.site] = text

    def refine(self, lab: Lab, rows: Dims) -> tuple[Lab, Lab]:
        """Split a label array that varies over ``rows`` and more into a row array and a cell array.

        Equal rows (a batch merged with the heads) get equal labels, so that they can be told apart from channels.
        """
        shape = lab.ids.shape
        order = [*sorted(rows), *(d for d in range(len(shape)) if d not in rows)]
        count = int(np.prod([shape[d] for d in rows]))
        matrix = lab.ids.transpose(order).reshape(count, -1)
        row, cell = self._rows_and_cells(matrix)
        ordered = [shape[d] for d in order]
        wide = [n if d in rows else 1 for d, n in zip(order, ordered, strict=True)]
        back = np.argsort(order)
        row, cell = row.reshape(wide).transpose(back), cell.reshape(ordered).transpose(back)
        self.define(lab.ids, row, cell)
        return Lab(row), Lab(cell, cell=True)

    def _rows_and_cells(self, matrix: Ids) -> tuple[Ids, Ids]:
        first = np.unique(matrix[:, 0])
        if len(first) == len(matrix):
            return self.fresh((len(matrix),), [0], "row"), self.fresh(matrix.shape, [0, 1], "cell")
        rows, which = np.unique(matrix, axis=0, return_inverse=True)
        return (
            self.fresh((len(rows),), [0], "row")[which.reshape(-1)],
            self.fresh(rows.shape, [0, 1], "cell")[which.reshape(-1)],
        )


def refined_by(labs: Sequence[Lab], lab: Lab, dims: Dims) -> bool:
    """Is the cell array ``lab`` a refinement of rows that vary over all of ``dims``?"""
    rows = [r.dims for r in labs if r is not lab and r.dims < lab.dims]
    return lab.cell and dims <= frozenset[int]().union(*rows)


def operands_of(*values: Any) -> list[Labelled]:
    """Every labelled tensor in nested arguments."""
    found: list[Labelled] = []
    for value in values:
        if type(value) is Labelled:
            found.append(value)
        elif type(value) in (tuple, list):
            found.extend(operands_of(*value))
    return found


def all_labs(*values: Any) -> list[Lab]:
    """Every label array in nested arguments."""
    return [lab for value in operands_of(*values) for lab in value.labs]


def reduce_dims(labels: Labels, x: Labelled, dims: Iterable[int]) -> list[Lab]:
    """The label arrays that are left when ``dims`` are summed over, still with size 1 there."""
    gone = frozenset(d % x.ndim for d in dims) if x.ndim else frozenset()
    kept = []
    for lab in x.labs:
        here, rest = lab.dims & gone, lab.dims - gone
        if not here:
            kept.append(lab)
        elif rest and lab.cell and not refined_by(x.labs, lab, rest):
            first = lab.ids[tuple(slice(0, 1) if d in here else slice(None) for d in range(x.ndim))]
            labels.unify(lab.ids, first)
            kept.append(lab.at(first))
        elif rest and not lab.cell:
            kept.append(labels.refine(lab, rest)[0])
    return kept


def align(labels: Labels, operands: Sequence[Labelled], shape: Shape) -> list[Lab]:
    """The label arrays of an elementwise operation on broadcast ``operands``.

    Where two operands both have a real dimension, their elements there are the same channels. An operand that has a
    dimension without labelling it cannot lose entries of it, nor can the others then. The result carries the labels of
    activations rather than those of parameters, so that a parameter can follow the order of its input.
    """
    padded = sorted((_padded(x, len(shape)) for x in operands), key=lambda x: x.movable)
    return list(reduce(lambda a, b: _align_pair(labels, a, b), padded).labs)


def _padded(x: Labelled, rank: int) -> Labelled:
    missing = rank - x.ndim
    if not missing:
        return x
    ones = (1,) * missing
    labs = (lab.at(lab.ids.reshape(ones + lab.ids.shape)) for lab in x.labs)
    return Labelled(ones + x.shape, tuple(labs), x.movable)


def _align_pair(labels: Labels, a: Labelled, b: Labelled) -> Labelled:
    shape = tuple(map(max, a.shape, b.shape))
    if _same_layout(a, b):
        labels.unify(a.labs[0].ids, b.labs[0].ids)
        return Labelled(shape, a.labs)
    shared = varying(a.shape) & varying(b.shape)
    met_a, free_a = _meeting(labels, a, shared)
    met_b, free_b = _meeting(labels, b, shared)
    _fix_unmatched(labels, met_a, met_b, shared)
    met_a, met_b = _separate(labels, met_a, met_b)
    return Labelled(shape, (*_match(labels, met_a, met_b, shared), *free_a, *free_b))


def _same_layout(a: Labelled, b: Labelled) -> bool:
    """The common case: one array each, over the same dimensions."""
    return len(a.labs) == len(b.labs) == 1 and a.labs[0].ids.shape == b.labs[0].ids.shape


def _meeting(labels: Labels, x: Labelled, shared: Dims) -> tuple[list[Lab], list[Lab]]:
    """Label arrays that both operands must agree on, and those only this operand has.

    An array that varies over shared and unshared dimensions is refined; its outer dimensions become the rows.
    """
    met, free = [], []
    for lab in x.labs:
        inside, outside = lab.dims & shared, lab.dims - shared
        if not inside:
            free.append(lab)
        elif not outside:
            met.append(lab)
        elif lab.cell:
            (free if refined_by(x.labs, lab, inside) else met).append(lab)
        elif min(inside) < min(outside):
            row, cell = labels.refine(lab, inside)
            met.append(row)
            free.append(cell)
        else:
            row, cell = labels.refine(lab, outside)
            free.append(row)
            met.append(cell)
    return met, free


def _fix_unmatched(labels: Labels, a: list[Lab], b: list[Lab], shared: Dims) -> None:
    """Fix arrays that vary only over dimensions which the other operand has, but does not label."""
    for mine, other in ((a, b), (b, a)):
        covered = frozenset[int]().union(*(lab.dims for lab in other))
        lost = [lab for lab in mine if not (lab.dims & shared & covered)]
        labels.fix(lost, "meets a dimension without channels (the model's input, a position, a constant)")
        mine[:] = [lab for lab in mine if lab.dims & shared & covered]


def _separate(labels: Labels, a: list[Lab], b: list[Lab]) -> tuple[list[Lab], list[Lab]]:
    """Refine joint arrays by the coarser ones they meet, so that rows meet rows and cells meet cells."""
    coarse = {lab.dims for lab in (*a, *b)}

    def split(labs: list[Lab]) -> list[Lab]:
        out: list[Lab] = []
        for lab in labs:
            rows = [d for d in coarse if d < lab.dims and min(d) == min(lab.dims)]
            if rows and not lab.cell:
                out.extend(labels.refine(lab, max(rows, key=len)))
            else:
                out.append(lab)
        return out

    return split(a), split(b)


def _match(labels: Labels, a: list[Lab], b: list[Lab], shared: Dims) -> list[Lab]:
    """Declare the arrays over the same shared dimensions equal; what is left over is fixed."""
    kept, rest_a, rest_b = [], [], []
    for dims in sorted({lab.dims & shared for lab in (*a, *b)}, key=sorted):
        mine = [lab for lab in a if lab.dims & shared == dims]
        other = [lab for lab in b if lab.dims & shared == dims]
        if mine and other:
            kept.extend(_equate(labels, mine, other))
        else:
            rest_a.extend(mine)
            rest_b.extend(other)
    if len(rest_a) == len(rest_b) == 1:
        kept.extend(_equate(labels, rest_a, rest_b))
    else:
        labels.fix((*rest_a, *rest_b), "channels are arranged differently in the two operands")
    return kept


def _equate(labels: Labels, a: list[Lab], b: list[Lab]) -> list[Lab]:
    if len(a) == len(b):
        for mine, other in zip(a, b, strict=True):
            labels.unify(mine.ids, other.ids)
        return a if max(lab.ids.size for lab in a) >= max(lab.ids.size for lab in b) else b
    single, several = (a, b) if len(a) == 1 else (b, a)
    if len(single) != 1:
        labels.fix((*a, *b), "channels are composed differently in the two operands")
        return a
    define_all(labels, single[0].ids, several)
    return several


def define_all(labels: Labels, whole: Ids, parts: list[Lab]) -> None:
    """``whole`` lives where all ``parts`` live; written as nested pairs, rows first."""
    *outer, last = sorted(parts, key=lambda lab: len(lab.dims))
    first = outer[0].ids
    for lab in outer[1:]:
        both = np.broadcast_shapes(first.shape, lab.ids.shape)
        pair = labels.fresh(both, range(len(both)), "row")
        labels.define(pair, first, lab.ids)
        first = pair
    labels.define(whole, first, last.ids)
