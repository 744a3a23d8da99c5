"""Labels: which channel keeps which tensor element alive.

A label is a positive integer. Every traced tensor carries label arrays that broadcast to its shape; an element
exists in the slim model as long as all of its labels are alive. Label 0 is always alive. A dimension in which
every label array has size 1 is *positional* (batch, time, space): it is never pruned.

Rules (``graphprune.rules``) say what an operation does to labels by calling the methods of :class:`Labels`, which only
write down facts, as whole arrays: ``unify`` (two labels are one), ``define`` (a label lives as long as two others
do) and ``fix`` (a label never dies). :mod:`graphprune.graph.solve` draws the conclusions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from graphprune.utils.arrays import Dims, Ids, Shape
from graphprune.utils.tree import PLAIN

NARROW = 1 << 31
"""Fewer labels than this take 4 bytes each, others 8."""
NOT_A_CHANNEL = ""
"""The reason for fixing what nobody would call a channel (the size of a kernel): not reported."""


@lru_cache(maxsize=4096)
def varying(shape: Shape) -> Dims:
    """The dimensions of a shape that are larger than 1."""
    return frozenset(d for d, n in enumerate(shape) if n > 1)


class LabelArray:
    """One label array of a tensor.

    ``ids`` has the tensor's rank, with size 1 where the label does not depend on a dimension. A ``cell`` array
    has been refined: its rows are labeled by another array of the same tensor. ``dims`` are the dimensions that the
    labels depend on.
    """

    __slots__ = ("cell", "dims", "ids")

    def __init__(self, ids: Ids, cell: bool = False) -> None:
        self.ids = ids
        self.cell = cell
        self.dims: Dims = varying(ids.shape)

    def at(self, ids: Ids) -> LabelArray:
        return LabelArray(ids, self.cell)


@dataclass(slots=True, eq=False)  # frozen, it would take four times as long to make, and thousands are made
class LabeledTensor:
    """A tensor as rules see it: its shape and its label arrays. ``movable``: a parameter, only moved about.

    It is never changed once it is made.

    ``boolean``: a mask. ``repeats``: the dimensions along which it is known to have one value.
    ``indexed``: the labels of the dimension in which integers count (which expert a token goes to), if that is known.
    ``numbers``: the values of a buffer of integers that names every channel of another dimension and has labels itself,
    also where it is seen as a row and repeated.
    """

    shape: Shape
    arrays: tuple[LabelArray, ...] = ()
    movable: bool = False
    boolean: bool = False
    repeats: Dims = frozenset()
    indexed: Ids | None = None
    numbers: Ids | None = None

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def touching(self, dims: Iterable[int]) -> list[LabelArray]:
        """The label arrays that vary along one of these dimensions."""
        if not self.arrays:
            return []
        rank = len(self.shape)
        wanted = [d % rank for d in dims]
        return [array for array in self.arrays if not array.dims.isdisjoint(wanted)]

    def moved(self, shape: Sequence[int], arrays: Iterable[LabelArray]) -> LabeledTensor:
        return LabeledTensor(tuple(shape), tuple(arrays), self.movable, indexed=self.indexed, numbers=self.numbers)


class ParameterAxis(str):
    """One dimension of a parameter or buffer; as text ``"conv1.weight[0]"``.

    Attributes:
        parameter: the name of the parameter or buffer, ``"conv1.weight"``.
        dim: the number of the dimension.
    """

    parameter: str
    dim: int

    def __new__(cls, parameter: str, dim: int) -> ParameterAxis:
        self = super().__new__(cls, f"{parameter}[{dim}]")
        self.parameter = parameter
        self.dim = dim
        return self

    def __reduce__(self) -> tuple[type[ParameterAxis], tuple[str, int]]:
        return ParameterAxis, (self.parameter, self.dim)

    @property
    def module(self) -> str:
        """The path of the module that has the parameter."""
        return self.parameter.rpartition(".")[0]

    @property
    def tensor(self) -> str:
        """The parameter's name in its module."""
        return self.parameter.rpartition(".")[2]


@lru_cache(maxsize=1 << 14)
def parameter_axes(parameter: str, count: int) -> tuple[ParameterAxis, ...]:
    """The axes of a parameter of so many dimensions."""
    return tuple(ParameterAxis(parameter, dim) for dim in range(count))


@dataclass(slots=True, eq=False)  # frozen, it would take four times as long to make
class Axis:
    """A run of labels made together: a dimension of a parameter (``name``), or rows and cells made by a refinement."""

    kind: str
    name: ParameterAxis | None
    start: int
    size: int
    node_index: int

    @property
    def parameter_axis(self) -> ParameterAxis:
        """The dimension of a parameter that these labels are of."""
        assert self.name is not None
        return self.name


@dataclass(frozen=True, slots=True)
class Reason:
    """Why labels are fixed: what happened, at which node, on which line if not the node's, and by which operation."""

    text: str
    node_index: int
    line: tuple[str, int] | None = None
    op: str = ""

    def __str__(self) -> str:
        return f"{self.op}: {self.text}" if self.op else self.text


MEETS_NO_CHANNELS = "meets a dimension without channels (the model's input, a position, a constant)"
"""The reason for fixing channels that an operand without labels has too."""


@dataclass(slots=True, repr=False)
class Facts:
    """What rules wrote down: whole arrays, with the node_index (node number) of each."""

    unions: list[tuple[Ids, Ids, int]] = field(default_factory=list)
    parts: list[tuple[Ids, Ids, Ids, int]] = field(default_factory=list)
    fixed: list[tuple[Ids, int]] = field(default_factory=list)
    reasons: list[Reason] = field(default_factory=lambda: [Reason(MEETS_NO_CHANNELS, -1)])
    """The first is that of label 0, which stands for entries without channels beside labeled ones."""
    rectangles: list[tuple[Ids, int]] = field(default_factory=list)
    ordered: list[tuple[Ids, int]] = field(default_factory=list)
    multiples: list[tuple[Ids, int, int]] = field(default_factory=list)
    choices: list[tuple[Ids, int, int, str]] = field(default_factory=list)
    chosen: list[Ids] = field(default_factory=list)
    maps: list[Ids] = field(default_factory=list)
    mixing: dict[int, str] = field(default_factory=dict)
    mixed: dict[int, list[Ids]] = field(default_factory=dict)


class Labels:
    """Makes labels and collects facts about them. ``node_index`` is the number of the node being labeled.

    Args:
        vocabulary: tables of so many rows may lose some although they are looked up by number, and so may outputs of so
            many entries: whoever removes them maps the numbers. None: there are no such tables.
    """

    def __init__(self, vocabulary: int | None = None) -> None:
        self.vocabulary = vocabulary
        self.count = 1
        self.axes: list[Axis] = []
        self.facts = Facts()
        self.node_index = -1
        self._made: dict[int, tuple[Ids, int]] = {}  # arrays of new labels, and the numbers of their axes

    def fresh(self, shape: Shape, dims: Sequence[int], kind: str, name: ParameterAxis | None = None) -> Ids:
        """New labels that vary over ``dims`` of a tensor of ``shape``."""
        sizes = [shape[d] if d in dims else 1 for d in range(len(shape))]
        total = math.prod(sizes)
        width: Any = np.int32 if self.count + total < NARROW else np.int64
        made: Ids = np.arange(self.count, self.count + total, dtype=width)
        self._made[id(made)] = made, len(self.axes)
        self.axes.append(Axis(kind, name, self.count, total, self.node_index))
        self.count += total
        return made.reshape(sizes)

    def axis_of_all(self, ids: Ids) -> int | None:
        """The number of the axis that ``ids`` are all labels of, in their order; None: they are of none."""
        made, axis = self._made.get(id(ids if ids.base is None else ids.base), (None, 0))
        return axis if made is not None and ids.size == made.size and ids.flags.c_contiguous else None

    def axis_in_any_order(self, ids: Ids) -> int | None:
        """The number of the axis of which ``ids`` are all labels, each once, in whatever order; None: of none."""
        made, axis = self._made.get(id(ids if ids.base is None else ids.base), (None, 0))
        if made is None or ids.size != made.size:
            return None
        if ids.flags.c_contiguous:
            return axis
        order = sorted(range(ids.ndim), key=lambda d: -ids.strides[d])
        return axis if ids.transpose(order).flags.c_contiguous else None

    def first_of_all(self, ids: Ids) -> int | None:
        """The first of ``ids``, if these are all labels that were made together, in their order; else None."""
        axis = self.axis_of_all(ids)
        return None if axis is None else self.axes[axis].start

    def parameter(self, name: str, shape: Shape, dims: Dims | None = None) -> LabeledTensor:
        """A parameter or buffer: fresh labels for every dimension, or for some of them."""
        axes = parameter_axes(name, len(shape))
        wide = [d for d, n in enumerate(shape) if n > 1 and (dims is None or d in dims)]
        arrays = [LabelArray(self.fresh(shape, [d], "channel", axes[d])) for d in wide]
        return LabeledTensor(tuple(shape), tuple(arrays), movable=True)

    def unify(self, a: Ids, b: Ids) -> None:
        """Labels at the same place (with broadcasting) live and die together."""
        if a is not b:
            self.facts.unions.append((a, b, self.node_index))

    def define(self, whole: Ids, first: Ids, second: Ids) -> None:
        """``whole`` lives where both ``first`` and ``second`` live."""
        self.facts.parts.append((whole, first, second, self.node_index))

    def fix(self, arrays: Iterable[LabelArray], text: str, line: tuple[str, int] | None = None, op: str = "") -> None:
        """These labels never die; ``text`` says why, and ``line`` where if it is not where the node was made.

        ``op`` names the operation if the reason starts with it.
        """
        arrays = list(arrays)
        if arrays:
            self.facts.reasons.append(Reason(text, self.node_index, line, op))
            number = len(self.facts.reasons) - 1
            self.facts.fixed.extend((array.ids, number) for array in arrays)

    def multiple(self, ids: Ids, of: int) -> None:
        """The number of living entries is a multiple of ``of``, or else the operation cannot run."""
        self.facts.multiples.append((ids, of, self.node_index))

    def chosen(self, ids: Ids, count: int) -> None:
        """The operation chooses ``count`` of ``ids`` by their values: so many must live."""
        self.facts.chosen.append(ids)
        self.at_least(ids[None], count, f"{count} of them are chosen by value")

    def at_least(self, ids: Ids, count: int, why: str) -> None:
        """``count`` of every row of the two-dimensional ``ids`` must live, or else the operation does something else.

        Of several rows some may go whole, by something that all of their entries need.
        """
        self.facts.choices.append((ids, count, self.node_index, why))

    def whole_maps(self, ids: Ids) -> None:
        """Each of ``ids`` stands for a map over space: they are channels, though they were found as rows of a view."""
        self.facts.maps.append(ids)

    def rectangle(self, ids: Ids) -> None:
        """Every row of the two-dimensional ``ids`` has equally many living entries."""
        self.facts.rectangles.append((ids, self.node_index))

    def in_order(self, ids: Ids) -> None:
        """The operation depends on the order of ``ids``: the slim tensors must have it too."""
        self.facts.ordered.append((ids, self.node_index))

    def mixes_channels(self, text: str, arrays: Iterable[LabelArray] = ()) -> None:
        """The operation mixes channels: removing one is not the same as zeroing it.

        Args:
            text: what it does.
            arrays: what it mixes, if that is known: as long as none of it goes, nothing is mixed.
        """
        self.facts.mixed[self.node_index] = [array.ids for array in arrays]
        self.facts.mixing[self.node_index] = text

    def refine(self, array: LabelArray, rows: Dims) -> tuple[LabelArray, LabelArray]:
        """Split a label array that varies over ``rows`` and more into a row array and a cell array.

        Equal rows (a batch merged with the heads) get equal labels, so that they can be told apart from channels.
        """
        shape = array.ids.shape
        order = [*sorted(rows), *(d for d in range(len(shape)) if d not in rows)]
        count = int(np.prod([shape[d] for d in rows]))
        matrix = array.ids.transpose(order).reshape(count, -1)
        rows_of, which = _different_rows(matrix)
        row, cell = self.fresh((len(rows_of),), [0], "row"), self.fresh(rows_of.shape, [0, 1], "cell")
        self.define(rows_of, row[:, None], cell)
        ordered = [shape[d] for d in order]
        wide = [n if d in rows else 1 for d, n in zip(order, ordered, strict=True)]
        back = np.argsort(order)
        row, cell = row[which].reshape(wide).transpose(back), cell[which].reshape(ordered).transpose(back)
        return LabelArray(row), LabelArray(cell, cell=True)


def _different_rows(matrix: Ids) -> tuple[Ids, Ids | slice]:
    """The different rows of a matrix, in order, and for every row the number of the one that it equals."""
    first, place, which = np.unique(matrix[:, 0], return_index=True, return_inverse=True)
    if len(first) == len(matrix):
        return matrix, slice(None)
    rows = matrix[place]
    if not np.array_equal(rows[which], matrix):  # some differ although their first labels are the same
        rows, which = np.unique(matrix, axis=0, return_inverse=True)
    return rows, which.reshape(-1)


def operands_of(*values: Any) -> list[LabeledTensor]:
    """Every labeled tensor in nested arguments."""
    found: list[LabeledTensor] = []
    for value in values:
        if type(value) is LabeledTensor:
            found.append(value)
        elif type(value) in (tuple, list) and not PLAIN.issuperset(map(type, value)):
            found.extend(operands_of(*value))
    return found


def all_arrays(*values: Any) -> list[LabelArray]:
    """Every label array in nested arguments."""
    return [array for value in operands_of(*values) for array in value.arrays]
