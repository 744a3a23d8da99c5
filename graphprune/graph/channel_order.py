"""The order of the survivors, where a ragged choice passes through a transposition (channel shuffle).

As long as every rectangle loses whole rows and columns, what survives keeps its order everywhere. Otherwise the rules
are run once more, on the labels of the slim tensors: where a parameter meets its input in another order than in the
dense model, the parameter's entries are gathered by identity. Where two activations disagree, nothing can be gathered.
"""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import fx

from graphprune.graph.propagate import Labeling, call_rule, result_of
from graphprune.graph.size_model import SizeModel
from graphprune.graph.slim_arguments import slim_arguments, slim_shapes
from graphprune.graph.solve import Solution
from graphprune.rules.labels import Axis, LabelArray, LabeledTensor, Labels, ParameterAxis
from graphprune.utils.arrays import Dims, Ids, Mask, Shape, distinct_columns

Orders = dict[Axis, Ids]


class Disorder(Exception):
    """Two activations meet with their channels in different orders.

    Attributes:
        line: where in the user's code, if that is known.
    """

    line: tuple[str, int] | None = None


def ragged(rectangles: Iterable[Ids], solution: Solution, alive: Mask) -> list[Ids]:
    """The rectangles that lose different entries in different rows."""
    found = []
    for ids in rectangles:
        mask = alive[solution.of[ids]]
        rows = mask[mask.any(axis=1)]
        if len(rows) and not (rows == rows[0]).all():
            found.append(ids)
    return found


class ReplayedLabels(Labels):
    """Labels for the second run: nothing is new, and every fact must be one that the dense run knew.

    Args:
        labeling: that of the dense run.
        free: the labels of parameters that no activation carries.
        orders: the entries of parameter axes that are in another order than in the dense model.
        living: the labels that live, of which tensors of one value are made again; None: of all.
    """

    def __init__(self, labeling: Labeling, free: Mask, orders: Orders, living: Mask | None = None) -> None:
        super().__init__()
        self.living = living
        self.count = labeling.labels.count
        self.free = free
        self.orders = orders
        self.changed = False
        self._axes = labeling.labels.axes
        self._starts = np.array([a.start for a in self._axes])
        facts = labeling.labels.facts
        self._unions = _by_node((a, b, node_index) for a, b, node_index in facts.unions)
        self._parts = _by_node((w, a, b, node_index) for w, a, b, node_index in facts.parts)
        self._fresh = _by_node((a, a.node_index) for a in self._axes)
        self._ordered = _by_node(facts.ordered)

    def fresh(self, shape: Shape, dims: Any, kind: str, name: ParameterAxis | None = None) -> Ids:
        (axis,) = self._next(self._fresh)
        sizes = [shape[d] if d in dims else 1 for d in range(len(shape))]
        ids = np.arange(axis.start, axis.start + axis.size)
        if axis.kind in ("filled", "repeat") and self.living is not None:
            ids = ids[self.living[ids]]
        if int(np.prod(sizes)) != len(ids):
            raise Disorder(f"{axis.kind} labels are made again in another size")
        return ids.reshape(sizes)

    def fix(self, arrays: Any, text: str, line: Any = None, op: str = "") -> None:
        """Said before."""

    def rectangle(self, ids: Ids) -> None:
        """Said before."""

    def chosen(self, ids: Ids, count: int) -> None:
        """Said before."""

    def mixes_channels(self, text: str, arrays: Any = ()) -> None:
        """Said before."""

    def in_order(self, ids: Ids) -> None:
        (dense,) = self._next(self._ordered)
        dense, slim = dense.ravel(), ids.ravel()
        if not np.array_equal(dense[np.isin(dense, slim)], slim):
            raise Disorder("an operation depends on the order of its channels")

    def _next(self, table: dict[int, list[tuple[Any, ...]]]) -> tuple[Any, ...]:
        if not table[self.node_index]:
            raise Disorder("the slim model runs through a rule differently")
        return table[self.node_index].pop(0)

    def unify(self, a: Ids, b: Ids) -> None:
        if a is not b:
            dense = np.broadcast_arrays(*self._next(self._unions))
            self._agree(dense, (a, b))

    def define(self, whole: Ids, first: Ids, second: Ids) -> None:
        w, a, b = np.broadcast_arrays(*self._next(self._parts))
        pair, slim = a.astype(np.int64) * self.count + b, np.asarray(first, np.int64) * self.count + second
        self._agree((pair, w), (slim, whole))

    def refine(self, array: LabelArray, rows: Dims) -> tuple[LabelArray, LabelArray]:
        for _ in range(2):
            self._next(self._fresh)
        whole, row, cell = (v.ravel() for v in np.broadcast_arrays(*self._next(self._parts)))
        order = np.argsort(whole, kind="stable")
        if not np.isin(array.ids, whole).all():
            raise Disorder("a channel stands where it did not stand before")
        at = order[np.searchsorted(whole[order], array.ids)]
        first = tuple(slice(None) if d in rows else slice(0, 1) for d in range(array.ids.ndim))
        if (row[at] != row[at][first]).any():
            raise Disorder("entries of several rows stand in one")
        return LabelArray(row[at][first]), LabelArray(cell[at], cell=True)

    def _agree(self, dense: Any, slim: Any) -> None:
        """Every slim pair must be a dense pair; if not, a free parameter axis is put in order."""
        a, b = (v.ravel() for v in dense)
        x, y = (v.ravel() for v in np.broadcast_arrays(*slim))
        if _subset((x, y), (a, b)):
            return
        if self._is_free(y):
            self._put_in_order(y, _partners(a, b, x))
        elif x.max(initial=0) < self.count and self._is_free(x):
            self._put_in_order(x, _partners(b, a, y))
        else:
            raise Disorder("two activations meet in different orders")

    def _is_free(self, labels: Ids) -> bool:
        return bool(self.free[labels].all()) and len(np.unique(self._axis_of(labels))) == 1

    def _axis_of(self, labels: Ids) -> Ids:
        return np.searchsorted(self._starts, labels, "right") - 1

    def _put_in_order(self, now: Ids, wanted: Ids) -> None:
        axis = self._axes[int(self._axis_of(now[:1])[0])]
        _, first = np.unique(wanted, return_index=True)
        order = wanted[np.sort(first)]
        if not axis.name or not np.array_equal(np.unique(order), np.unique(now)):
            raise Disorder("a parameter would have to be in two orders")
        self.orders[axis] = order - axis.start
        self.changed = True


def _by_node(facts: Any) -> dict[int, list[tuple[Any, ...]]]:
    table: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for *fact, node_index in facts:
        table[node_index].append(tuple(fact))
    return table


def _subset(pairs: tuple[Ids, Ids], known: tuple[Ids, Ids]) -> bool:
    """Is every one of ``pairs`` among the ``known`` ones?"""
    n = len(pairs[0])
    first = np.unique(np.concatenate([pairs[0], known[0]]), return_inverse=True)[1]
    values, second = np.unique(np.concatenate([pairs[1], known[1]]), return_inverse=True)
    keys = first * len(values) + second
    return bool(np.isin(keys[:n], keys[n:]).all())


def _partners(a: Ids, b: Ids, x: Ids) -> Ids:
    """For every entry of ``x`` the ``b`` that stands beside it in ``a``."""
    values, first = np.unique(a, return_index=True)
    if len(values) != len(a) and distinct_columns(np.stack([a, b]))[0].shape[1] != len(values):
        raise Disorder("a channel stands in several places")
    at = np.searchsorted(values, x)
    if (at >= len(values)).any() or (values[np.minimum(at, len(values) - 1)] != x).any():
        raise Disorder("a channel stands where it did not stand before")
    return b[first[at]]


class SlimRun:
    """The labels of every slim tensor, made by the same rules."""

    def __init__(self, labeling: Labeling, sizes: SizeModel, alive: Mask) -> None:
        self.labeling = labeling
        self.sizes = sizes
        self.alive = alive
        self.free = _free_labels(labeling)
        self.living = alive[sizes.solution.of.of_range(0, labeling.labels.count)]
        self.axes = {a.name: a for a in labeling.labels.axes if a.name}
        self.orders: Orders = {}

    def run(self) -> Orders:
        """Repeat until every parameter is in the order that its inputs ask for."""
        for _ in range(12):
            if not self._once():
                return self.orders
        raise Disorder("the orders of parameters depend on each other")

    def _once(self) -> bool:
        replay = ReplayedLabels(self.labeling, self.free, self.orders, self.living)
        values: dict[fx.Node, Any] = {}
        for node_index, node in enumerate(self.labeling.nodes):
            replay.node_index = node_index
            try:
                values[node] = self._value(replay, node, values)
            except Disorder as error:
                error.line = node.meta.get("line")
                raise
        return replay.changed

    def _value(self, replay: ReplayedLabels, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        dense = self.labeling.values[node]
        if node.op == "get_attr" and dense.arrays:
            return self._parameter(node)
        if node.op != "call_function":
            return dense
        if node.target is operator.getitem:
            return self._result(values[node.args[0]], node.args[1])  # type: ignore[index]
        return self._call(replay, node, values)

    def _result(self, value: Any, number: Any) -> Any:
        """One of the results of a call, of which there may be fewer than in the dense run."""
        try:
            return result_of(value, number)
        except IndexError as error:
            raise Disorder(f"result {number} is one of a row that is gone") from error

    def _parameter(self, node: fx.Node) -> LabeledTensor:
        name, shape = node.meta["tensor"], list(node.meta["shape"])
        arrays = []
        for d in range(len(shape)):
            axis = self.axes.get(ParameterAxis(name, d))
            if axis is not None:
                ids = np.arange(axis.start, axis.start + axis.size)
                living = ids[self.alive[self.sizes.solution.of[ids]]]
                ids = axis.start + self.orders[axis] if axis in self.orders else living
                shape[d] = len(ids)
                arrays.append(LabelArray(ids.reshape([-1 if k == d else 1 for k in range(len(shape))])))
        numbers = self.labeling.values[node].numbers
        if numbers is not None:  # those of the channels that are left
            left = arrays[0].ids - self.axes[ParameterAxis(name, 0)].start
            numbers = np.unique(numbers[left], return_inverse=True)[1]
        return LabeledTensor(tuple(shape), tuple(arrays), movable=True, numbers=numbers)

    def _call(self, replay: ReplayedLabels, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        op: Any = node.target
        outs = slim_shapes(self.sizes, self.alive, node)
        args, used = slim_arguments(self.sizes, self.alive, node, outs), self.labeling.used(node)
        try:
            function = self.labeling.functions.get(node)
            return call_rule(op, args, node.kwargs, replay, outs, values=values, used=used, function=function)[0]
        except (IndexError, ValueError) as error:  # rows of a transposed grid that keep other columns
            raise Disorder(f"{op} does not fit the slim shapes: {error}") from error


def _free_labels(labeling: Labeling) -> Mask:
    """Labels of parameters that no activation carries: their entries may be put in any order."""
    free = np.ones(labeling.labels.count, bool)
    free[0] = False
    for value in labeling.values.values():
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, LabeledTensor) and not one.movable:
                for array in one.arrays:
                    free[array.ids.ravel()] = False
    return free


def orders_of(labeling: Labeling, sizes: SizeModel, alive: Mask) -> Orders:
    """For parameter axes whose survivors change their order, the surviving entries in the new one.

    Raises:
        Disorder: the choice cannot be made exact by ordering parameters.
    """
    return SlimRun(labeling, sizes, alive).run()
