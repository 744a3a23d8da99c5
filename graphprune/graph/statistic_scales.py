"""Numbers that belong to a statistic over channels, such as the square root of their count in an RMSNorm.

A program that divides a sum over channels by their count, or multiplies what it normalized over them with the square
root of the count, takes a statistic in steps. Its slim model works the number out for the channels that it has, as one
operation that takes the whole statistic does (``F.rms_norm``). Any other number that a size became must stay.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import isclose, prod
from operator import getitem
from typing import Any

import numpy as np
import torch
from torch import fx

from graphprune.graph.propagate import Labeling
from graphprune.graph.solve import Solution
from graphprune.rules.labels import LabeledTensor
from graphprune.rules.registry import has_trait, is_elementwise
from graphprune.rules.traits import Trait
from graphprune.utils.arrays import Ids, Mask

aten = torch.ops.aten

_LAYOUT = (Trait.IDENTITY, Trait.DETACHES, Trait.RESHAPES, Trait.EXPANDS, Trait.MOVES)
_FACTORS = (Trait.SCALES, Trait.DIVIDES)
_POWERS = (0.5, 1.0, 2.0)
_SUMS = (aten.sum,)


@dataclass(frozen=True)
class Statistic:
    """A sum, norm or mean of the tensor ``source`` over channels, which is ``result``.

    A plain sum belongs with the count itself (a mean). Only its root, or a norm, belongs with the root of the count: a
    sum of products that is divided by that is no statistic, but the score of an attention.
    """

    source: fx.Node
    result: fx.Node
    rooted: bool


StatisticSet = frozenset[Statistic]


class StatisticScales:
    """Which calls of a traced program scale a statistic over channels, or what it normalizes, by a number.

    Args:
        nodes: of the trace, in the order of execution.
        labeling: the labels of their results.
        solution: what follows from these.
    """

    def __init__(self, nodes: Sequence[fx.Node], labeling: Labeling, solution: Solution) -> None:
        self._labeling = labeling
        self._solution = solution
        self._pure: dict[fx.Node, StatisticSet] = {}
        self._normalized: dict[fx.Node, StatisticSet] = {}
        calls = [node for node in nodes if node.op == "call_function"]
        for node in calls:
            self._follow(node)
        found = {node: self._scaled(node) for node in calls if factor_of(node) is not None}
        self.of: dict[fx.Node, StatisticSet] = {node: statistics for node, statistics in found.items() if statistics}
        """By the call that scales, the statistics that it may scale."""

    def _follow(self, node: fx.Node) -> None:
        """Note whether a call's result is a statistic, or is normalized by one."""
        taken = self._taken(node)
        if taken is not None:
            self._pure[node] = frozenset([taken])
        elif self._pure:  # what comes before all statistics is made of none
            self._follow_operands(node)

    def _follow_operands(self, node: fx.Node) -> None:
        operands = node.all_input_nodes
        if node.target is aten._to_copy.default or has_trait(node.target, *_LAYOUT):
            for known in (self._pure, self._normalized):
                if operands and operands[0] in known:
                    known[node] = known[operands[0]]
        elif is_elementwise(node.target):
            if all(x in self._pure or prod(x.meta["shape"]) == 1 for x in operands):
                self._note(self._pure, node, operands)
            elif has_trait(node.target, *_FACTORS):
                self._note(self._normalized, node, operands)

    def _note(self, known: dict[fx.Node, StatisticSet], node: fx.Node, operands: Iterable[fx.Node]) -> None:
        statistics = self._behind(operands)
        if has_trait(node.target, Trait.POWERS):
            statistics = frozenset(replace(s, rooted=True) for s in statistics)
        if statistics:
            known[node] = statistics

    def _behind(self, nodes: Iterable[fx.Node]) -> StatisticSet:
        nothing: StatisticSet = frozenset()
        return nothing.union(*(self._pure.get(n, nothing) | self._normalized.get(n, nothing) for n in nodes))

    def _taken(self, node: fx.Node) -> Statistic | None:
        """The statistic that a call takes, or that is one of its results; None: it takes none over channels."""
        call: Any = node.args[0] if node.target is getitem else node
        if not has_trait(call.target, Trait.STATISTIC) or (call is node and "shapes" in node.meta):
            return None
        found = Statistic(call.args[0], node, rooted=call.target.overloadpacket not in _SUMS)
        source, result = self._labeling.tensor(found.source), self._labeling.tensor(node)
        gone = {array.ids.tobytes() for array in source.arrays} - {array.ids.tobytes() for array in result.arrays}
        return found if gone else None

    def _scaled(self, node: fx.Node) -> StatisticSet:
        """The statistics that a call scales, or that everything it is used for is multiplied with or divided by."""
        own = self._behind(node.all_input_nodes)
        if own or not node.users:
            return own
        others = [self._behind(x for x in user.all_input_nodes if x is not node) for user in node.users]
        used = all(others) and all(has_trait(user.target, *_FACTORS) for user in node.users)
        return frozenset[Statistic]().union(*others) if used else own

    def units(self, module: str) -> Ids:
        """The units that the statistics which a module scales are taken over."""
        statistics = [s for node, found in self.of.items() if node.meta["module"] == module for s in found]
        arrays = [array.ids.ravel() for s in statistics for array in self._labeling.tensor(s.source).arrays]
        classes = self._solution.of[np.concatenate([np.zeros(0, np.int64), *arrays])]
        return np.unique(self._solution.expand(classes)[0])

    def explains(self, node: fx.Node, old: Any, new: Any, alive: Mask) -> bool:
        """Does a number change as the count of channels does that a statistic is taken over?

        Args:
            node: the call that it is given to.
            old, new: the number in the original and in the slim model.
            alive: the classes that live in the slim model.
        """
        if not all(isinstance(x, int | float) and x for x in (old, new)):
            return False
        statistics = self.of.get(node, ())
        return any(_is_power(new / old, *self._counts(s, alive), _POWERS if s.rooted else (1.0,)) for s in statistics)

    def _counts(self, statistic: Statistic, alive: Mask) -> tuple[int, int]:
        """How many entries every value of a statistic is taken over, in the original and in the slim model."""
        source, result = self._labeling.tensor(statistic.source), self._labeling.tensor(statistic.result)
        dense = prod(source.shape) // max(prod(result.shape), 1)
        return dense, living_entries(self._solution, source, alive) // max(
            living_entries(self._solution, result, alive), 1
        )


def _is_power(ratio: float, dense: int, slim: int, powers: Sequence[float]) -> bool:
    """Is a ratio one of these powers of that of two counts? (Counts less one are the divisors of variances.)"""
    pairs = [(dense, slim)] + [(dense - 1, slim - 1)] * (slim > 1)
    return any(
        isclose(ratio, (b / a) ** (sign * p), rel_tol=1e-6) for a, b in pairs for p in powers for sign in (1, -1)
    )


def factor_of(node: Any) -> Any:
    """The number that a call multiplies with or divides by; None: there is none."""
    number = node.args[1] if has_trait(node.target, *_FACTORS) and len(node.args) > 1 else None
    return number if isinstance(number, int | float) and not isinstance(number, bool) else None


def entries_key(value: LabeledTensor) -> Hashable:
    """Equal for labeled tensors that have the same entries, in whatever order their dimensions stand."""
    arrays = sorted(
        (ids.__array_interface__["data"][0], ids.shape, ids.strides) for ids in (a.ids for a in value.arrays)
    )
    dims = (
        tuple((i, shape[d], strides[d]) for i, (_, shape, strides) in enumerate(arrays) if shape[d] > 1)
        for d in range(value.ndim)
    )
    return prod(value.shape), tuple(address for address, _, _ in arrays), tuple(sorted(filter(None, dims)))


def living_entries(solution: Solution, value: LabeledTensor, alive: Mask) -> int:
    """The number of entries of a labeled tensor that live."""
    mask = np.ones((1,) * value.ndim, bool)
    for array in value.arrays:
        mask = mask & alive[solution.of[array.ids]]
    return int(np.count_nonzero(mask)) * (prod(value.shape) // mask.size)
