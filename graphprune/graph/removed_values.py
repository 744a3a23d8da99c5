"""Where channels are counted: sums over entries that are not zero where a channel is removed.

A channel that is set to zero in all parameters is zero in what layers make, but not in ``sigmoid(y)`` or
``ones_like(y)``. A weight that has lost the channel too makes up for that, a sum over channels does not: without the
channel it is another one than with zeros in the parameters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from operator import getitem
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from graphprune.graph.groups import Units
from graphprune.graph.propagate import Labeling
from graphprune.graph.solve import Solution
from graphprune.rules.labels import LabelArray, LabeledTensor, all_arrays
from graphprune.rules.registry import has_trait, norm_call, rule_of
from graphprune.rules.traits import Trait
from graphprune.rules.zeros import is_pointwise, keeps_zeros, zero_at_zero
from graphprune.tracing.tracer import Trace
from graphprune.utils.arrays import Dims, distinct_columns
from graphprune.utils.operators import is_mutable

aten = torch.ops.aten

Groups = frozenset[int]
NO_GROUP: Groups = frozenset()


class RemovedValues:
    """For every tensor of a trace, the groups whose removed units have zeros in it.

    Args:
        trace: of the program.
        labeling: the labels of the trace.
        solution: what follows from them.
        units: the groups.
    """

    def __init__(self, trace: Trace, labeling: Labeling, solution: Solution, units: Units) -> None:
        self._labeling = labeling
        self._solution = solution
        self._units = units
        self._constants = trace.constants
        self._all: Groups = frozenset(range(len(units.groups)))
        self._known: dict[int, Groups] = {}
        self._zeros: dict[fx.Node, Groups] = {}
        self.counted: dict[int, Groups] = {}
        """By the number of a call that adds up channels, the groups whose removed entries are not zero there."""
        for number, node in enumerate(labeling.nodes):
            self._zeros[node] = self._zeros_of(number, node)
            self._written(node)

    def _zeros_of(self, number: int, node: fx.Node) -> Groups:
        own = self._groups(all_arrays(self._labeling.values[node]))
        if node.op == "get_attr" and "tensor" not in node.meta:
            return self._all if _is_zero(self._constants[str(node.target)]) else NO_GROUP
        if node.op != "call_function":
            return own if "tensor" in node.meta else NO_GROUP
        if node.target is aten.scalar_tensor.default:
            return self._all if node.args[0] == 0 else NO_GROUP
        if node.target is getitem:
            return self._zeros[node.args[0]] & own  # type: ignore[index]
        return self._of_call(number, node, own) & own

    def _of_call(self, number: int, node: fx.Node, own: Groups) -> Groups:
        """The groups whose removed units have zeros in the result of a call."""
        known = rule_of(node.target)
        norm = norm_call(node.target, node.args, node.kwargs)
        if norm is not None:
            return self._zeros.get(norm.weight, NO_GROUP) & (own if norm.bias is None else self._zeros[norm.bias])
        if known is not None and known.sums is not None:
            return self._of_sum(number, node, known.sums(*node.args, **node.kwargs))
        if number in self._labeling.labels.facts.mixing:
            return NO_GROUP
        if is_pointwise(node.target):
            return frozenset(g for g in own if self._zero_at(node, g))
        if not keeps_zeros(node.target) or not all(self._may_be_zero(x) for x in _values(node)):
            return NO_GROUP
        if not node.all_input_nodes or node.target is aten.new_zeros.default:
            return own
        sources = _sources(node)
        read = NO_GROUP.union(*map(self._labels, sources))
        filled = read.difference(*(self._labels(x) - self._zeros[x] for x in sources))
        added = own - read if has_trait(node.target, Trait.ADDS_ZEROS) else NO_GROUP
        return (own & filled - self._spread(node, sources)) | added

    def _spread(self, node: fx.Node, sources: Sequence[fx.Node]) -> Groups:
        """The groups along a dimension that a call has added, as expanding does: there all entries are repeated."""
        before = [self._times(x) for x in sources]
        return frozenset(g for g, times in self._times(node).items() if times > max(count[g] for count in before))

    def _times(self, node: fx.Node) -> Counter[int]:
        """By group, how many dimensions, or products of them, it is along."""
        return Counter(group for array in self._labeling.tensor(node).arrays for group in self._of_array(array))

    def _zero_at(self, node: fx.Node, group: int) -> bool:
        operands: list[fx.Node] = []
        fx.node.map_arg((node.args, node.kwargs), operands.append)
        result = self._labeling.tensor(node)
        places = [array.dims for array in result.arrays if group in self._of_array(array)]
        if len(places) < 2:
            return zero_at_zero(node, [group in self._zeros[x] for x in operands])
        return all(
            zero_at_zero(node, [self._zero_along(x, group, place, result.ndim) for x in operands]) for place in places
        )

    def _zero_along(self, node: fx.Node, group: int, place: Dims, rank: int) -> bool:
        """Is an operand zero where units of a group are removed along dimensions of a result of this rank alone?"""
        value = self._labeling.tensor(node)
        carried = [array.dims for array in value.arrays if group in self._of_array(array)]
        met = any(d + rank - value.ndim in place for dims in carried for d in dims)
        return group in self._zeros[node] and (met or not carried)

    def _of_sum(self, number: int, node: fx.Node, sums: Iterable[tuple[int, Any]]) -> Groups:
        """The zeros of a sum of products; note the groups over which it counts."""
        factors = [(node.args[position], dims) for position, dims in sums]
        zeros = NO_GROUP.union(*(self._zeros[x] for x, _ in factors))  # type: ignore[index]
        if has_trait(node.target, Trait.COMPARES):
            zeros = self._all.intersection(*(self._zeros[x] for x, _ in factors))  # type: ignore[index]
        zeros -= self._filled_crosswise(node, factors)
        over = NO_GROUP.union(*(self._groups_along(self._labeling.tensor(x), dims) for x, dims in factors))
        if over - zeros:
            self.counted[number] = over - zeros
        others = [x for x in node.all_input_nodes if all(x is not factor for factor, _ in factors)]
        running = len(factors) == 1 and node.meta["shape"] == factors[0][0].meta["shape"]  # type: ignore[union-attr]
        return zeros.intersection(*(self._zeros[x] for x in others)) - (over if running else NO_GROUP)

    def _filled_crosswise(self, node: fx.Node, factors: Sequence[tuple[Any, Iterable[int]]]) -> Groups:
        """The groups along two dimensions of products, whose units may be removed along one and not the other."""
        twice = frozenset(group for group, count in self._times(node).items() if count > 1)
        if not twice or has_trait(node.target, Trait.COMPARES):
            return twice
        filled = (self._labels_beside(x, dims) - self._zeros[x] for x, dims in factors)
        return twice.intersection(NO_GROUP.union(*filled))

    def _labels_beside(self, node: fx.Node, summed: Iterable[int]) -> Groups:
        """The groups of the dimensions that are not summed over."""
        value = self._labeling.tensor(node)
        gone = {d % value.ndim for d in summed}
        return self._groups(value.touching(d for d in range(value.ndim) if d not in gone))

    def _written(self, node: fx.Node) -> None:
        """What is written to a view is in the tensor that it is a view of, too."""
        if node.op != "call_function" or not is_mutable(node.target):
            return
        x: Any = node.args[0]
        while isinstance(x, fx.Node) and x.op == "call_function":
            self._zeros[x] = self._zeros[x] & self._zeros[node]
            x = x.args[0] if x.args and _is_alias(x) else None

    def _may_be_zero(self, value: Any) -> bool:
        """Nothing that an operation without a tensor in its place writes anywhere: a number, or a tensor of one."""
        if isinstance(value, fx.Node):
            single = value.meta["dtype"].is_floating_point and value.meta["shape"].numel() == 1
            return not single or bool(self._labels(value))
        return not isinstance(value, float) or value == 0

    def _labels(self, node: fx.Node) -> Groups:
        return self._groups(self._labeling.tensor(node).arrays)

    def _groups_along(self, value: LabeledTensor, dims: Iterable[int]) -> Groups:
        """The groups whose units come and go along some dimensions. (A head is needed by all columns in it.)"""
        wanted = {d % value.ndim for d in dims}
        found = NO_GROUP
        for array in value.touching(wanted):
            ids = array.ids[tuple(slice(None) if d in wanted else slice(0, 1) for d in range(value.ndim))]
            unit, entry = self._solution.expand(self._solution.of[ids.ravel()], np.arange(ids.size))
            pairs, _ = distinct_columns(np.stack([unit, entry]))
            units, times = np.unique(pairs[0], return_counts=True)
            found |= frozenset(self._units.group_of[units[times < ids.size]].tolist()) - {-1}
        return found

    def _groups(self, arrays: Iterable[LabelArray]) -> Groups:
        return NO_GROUP.union(*(self._of_array(array) for array in arrays))

    def _of_array(self, array: LabelArray) -> Groups:
        key = id(array.ids)  # the labeling keeps all of them
        if key not in self._known:
            units = self._solution.expand(np.unique(self._solution.of[array.ids]))[0]
            self._known[key] = frozenset(np.unique(self._units.group_of[units]).tolist()) - {-1}
        return self._known[key]


def _values(node: fx.Node) -> Iterable[Any]:
    yield from node.args
    yield from node.kwargs.values()


def _sources(node: fx.Node) -> Sequence[fx.Node]:
    """The tensors whose entries the result has: of a lookup the table, since the entry at place 0 need not be zero."""
    return node.all_input_nodes[:1] if has_trait(node.target, Trait.LOOKS_UP) else node.all_input_nodes


def _is_zero(tensor: Tensor) -> bool:
    return not (tensor.is_meta or tensor.is_nested) and not bool((tensor != 0).any())


def _is_alias(node: fx.Node) -> bool:
    """Is the result the memory of the first argument, or a part of it?"""
    if node.target is getitem:
        return True
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.returns) and schema.returns[0].alias_info is not None
