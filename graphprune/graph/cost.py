"""What a model costs: counted on the traced graph, for any choice of channels, without building it.

MACs, parameters and bytes are sums of products of dimensions, so that one choice is counted by a few array operations,
and so is the price of every channel: by how much each cost falls when it is removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from math import prod

import numpy as np
from torch import Tensor, fx, nn

from graphprune.graph.dimensions import Dimensions
from graphprune.graph.groups import Units
from graphprune.graph.propagate import Labelling
from graphprune.graph.size_model import SizeModel
from graphprune.rules.labels import ParameterAxis
from graphprune.rules.registry import macs_of
from graphprune.utils.arrays import Ids, Mask, Scores

COSTS = ("macs", "params", "bytes")


@dataclass(frozen=True)
class Cost:
    """``macs`` (1 MAC = one multiply-add) of the traced input, ``params``, and ``bytes`` of parameters and buffers."""

    macs: int
    params: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.macs / 1e6:,.1f} M MACs, {self.params / 1e6:,.2f} M parameters, {self.bytes / 1e6:,.1f} MB"


@dataclass(frozen=True)
class Terms:
    """Sum over rows of ``scale * product(counts[dims])``. ``scale`` [rows], ``dims`` [rows, factors]."""

    scale: Ids
    dims: Ids

    @staticmethod
    def of(rows: list[tuple[int, list[int]]]) -> Terms:
        width = max((len(dims) for _, dims in rows), default=1)
        padded = [dims + [0] * (width - len(dims)) for _, dims in rows]
        return Terms(np.array([s for s, _ in rows], np.int64), np.array(padded, np.int64).reshape(len(rows), width))

    def values(self, counts: Ids) -> Ids:
        """What each row comes to. [rows]"""
        found: Ids = self.scale * np.prod(counts[self.dims], axis=1)
        return found

    def slopes(self, counts: Ids) -> Scores:
        """By how much the sum falls with one entry less of each dimension. [dimensions]"""
        each = self.values(counts)[:, None] / np.maximum(counts[self.dims], 1)
        return np.bincount(self.dims.ravel(), each.ravel(), len(counts)).astype(np.float64)


class CostModel:
    """The cost of every choice of channels of one traced model.

    Args:
        nodes: what evaluation runs of the trace; what only training runs costs no MACs.
        tensors: the parameters and buffers by name.
    """

    def __init__(
        self, labelling: Labelling, units: Units, nodes: Sequence[fx.Node], tensors: Sequence[tuple[str, Tensor]]
    ) -> None:
        self.dimensions = Dimensions(SizeModel(labelling, units.solution, units.solution.prunable))
        counted = [macs(node) for node in nodes if (macs := macs_of(node.target)) is not None]
        self.macs = Terms.of([(1, [self.dimensions.number(*f) for f in factors]) for factors in counted])
        entries = self._entries(tensors, units)
        learned = [isinstance(t, nn.Parameter) for _, t in tensors]
        sizes = [t.element_size() for _, t in tensors]
        self.params = Terms.of([row for row, wanted in zip(entries, learned, strict=True) if wanted])
        self.bytes = Terms.of([(s * size, d) for (s, d), size in zip(entries, sizes, strict=True)])
        self._needs = self.dimensions.needs()
        self.everything: Mask = np.ones(len(units.solution.reason), bool)

    def _entries(self, tensors: Sequence[tuple[str, Tensor]], units: Units) -> list[tuple[int, list[int]]]:
        """One row for every parameter and buffer: the product of its dimensions."""
        lines = {axis.parameter_axis: self.dimensions.line(units.labels_of(axis)) for axis in units.axes}
        rows = []
        for name, tensor in tensors:
            numbers = {d: lines.get(ParameterAxis(name, d)) for d in range(tensor.ndim)}
            fixed = prod(n for d, n in enumerate(tensor.shape) if numbers[d] is None)
            rows.append((fixed, [n for n in numbers.values() if n is not None]))
        return rows

    def at(self, alive: Mask) -> Cost:
        """The cost when the classes ``alive`` live."""
        counts = self.dimensions.counts(alive)
        return Cost(*(int(terms.values(counts).sum()) for terms in (self.macs, self.params, self.bytes)))

    def vector(self, alive: Mask) -> Scores:
        """The cost as floats, in the order of ``KINDS``."""
        return np.array(astuple(self.at(alive)), np.float64)

    def prices(self, alive: Mask) -> Scores:
        """By how much each cost falls when one living class is removed. [KINDS, classes]"""
        counts = self.dimensions.counts(alive)
        needs, classes = self._needs, len(alive)
        living = alive[needs.entry]
        dim, unit = needs.dim[living], needs.unit[living]
        slopes = [terms.slopes(counts)[dim] for terms in (self.macs, self.params, self.bytes)]
        return np.stack([np.bincount(unit, s, classes) for s in slopes])

    def shares(self, units: Units) -> Scores:
        """The part of MACs and of parameters in which each group takes part; parts overlap. [2, groups]"""
        group = units.group_of[self._needs.unit]
        known = group >= 0
        counts = self.dimensions.counts(self.everything)
        member = np.zeros((len(counts), len(units.groups)), bool)
        member[self._needs.dim[known], group[known]] = True
        return np.stack([_touched(terms, counts, member) for terms in (self.macs, self.params)])


def _touched(terms: Terms, counts: Ids, member: Mask) -> Scores:
    """The share of a sum's rows that have a dimension of each group. ``member`` [dimensions, groups]"""
    values = terms.values(counts).astype(np.float64)
    touched = np.zeros((len(values), member.shape[1]), bool)
    for column in terms.dims.T:
        touched |= member[column]
    found: Scores = values @ touched / max(values.sum(), 1.0)
    return found
