"""What a model costs: counted on the traced graph, for any choice of channels, without building it.

MACs, parameters and bytes are sums of products of dimensions, so that one choice is counted by a few array operations,
and so is the price of every channel: by how much each cost falls when it is removed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from torch import Tensor, fx

from graphprune.errors import InputError
from graphprune.graph.budget_kinds import Counted, Factor, Product, count_macs, counted_kinds
from graphprune.graph.dimensions import Dimensions
from graphprune.graph.groups import Units
from graphprune.graph.living import Living, all_living
from graphprune.rules.labels import ParameterAxis
from graphprune.tracing.tracer import Trace
from graphprune.utils.arrays import Ids, Mask, Scores
from graphprune.utils.tables import Printed, human


@dataclass(frozen=True, repr=False)
class Cost(Printed):
    """What a model costs.

    Attributes:
        counts: by budget kind: ``macs`` (1 MAC = one multiply-add) of the traced input, ``params``, ``bytes`` of
            parameters and buffers, and whatever kinds are registered (:func:`graphprune.budget_kind`).
        uncounted: by kind, the error of a function of a user's that does not count it, which is raised where the kind
            is asked for.
    """

    counts: Mapping[str, int]
    uncounted: Mapping[str, InputError] = field(default_factory=dict, compare=False)

    def __getitem__(self, kind: str) -> int:
        if kind in self.uncounted:
            raise _again(self.uncounted[kind])
        return self.counts[kind]

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return self.counts["macs"]

    @property
    def params(self) -> int:
        """Entries of parameters."""
        return self.counts["params"]

    @property
    def bytes(self) -> int:
        """Bytes of parameters and buffers."""
        return self.counts["bytes"]

    def _summary(self) -> str:
        return f"Cost: {self}"

    def _parts(self) -> Iterator[str]:
        others = [f"{n:,} {kind}" for kind, n in self.counts.items() if kind not in ("macs", "params", "bytes")]
        others += [f"{kind} not counted ({error.what})" for kind, error in self.uncounted.items()]
        macs, params, size = _millions(self.macs, 1), _millions(self.params, 2), _millions(self.bytes, 1, "B")
        yield ", ".join([f"{macs} MACs", f"{params} parameters", size, *others])


def _again(error: InputError) -> InputError:
    """The same error, to be raised where a user asks once more."""
    again = InputError(error.what, where=error.place, found=error.found, needed=error.needed, do=error.do)
    again.__cause__ = error.__cause__
    return again


def _millions(number: int, digits: int, unit: str = "") -> str:
    """A number in millions, so that costs before and after can be compared; a smaller one as it reads best."""
    return f"{number / 1e6:,.{digits}f} M{unit}" if number >= 1e6 else human(number, unit)


@dataclass(frozen=True)
class Terms:
    """Sum over rows of ``scale * product(counts[dims])``. ``scale`` [rows], ``dims`` [rows, factors]."""

    scale: Ids
    dims: Ids

    @staticmethod
    def of(rows: list[tuple[int, list[int]]]) -> Terms:
        width = max([len(dims) for _, dims in rows], default=1)
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


def macs_by_module(trace: Trace) -> dict[str, int]:
    """The multiply-adds of what evaluation runs, by the path of the innermost module; they add up to the model's."""
    found: dict[str, int] = {}
    for node in trace.evaluated_nodes:
        for scale, factors in count_macs(Counted([node], ())):
            sizes = [int(of.meta["shape"][dim]) for of, dim in factors if isinstance(of, fx.Node)]
            found[node.meta["module"]] = found.get(node.meta["module"], 0) + scale * math.prod(sizes)
    return found


class CostModel:
    """The cost of every choice of channels of one traced model.

    Args:
        dimensions: the dimensions of its tensors; more are numbered here.
        units: its units.
        nodes: what evaluation runs of the trace; what only training runs costs no MACs.
        tensors: the parameters and buffers by name.

    Attributes:
        counted: the kinds that were registered when it was made; ``kinds``: those of them that could be counted.
    """

    def __init__(
        self, dimensions: Dimensions, units: Units, nodes: Sequence[fx.Node], tensors: Sequence[tuple[str, Tensor]]
    ) -> None:
        self.dimensions = dimensions
        self._units = units
        self._shapes = {name: tensor.shape for name, tensor in tensors}
        self._rows: dict[int, tuple[Sequence[Factor], int, list[int]]] = {}
        self.counted, self.terms = counted_kinds(), dict[str, Terms]()
        self._uncounted: dict[str, InputError] = {}
        for kind in self.counted:
            try:
                self.terms[kind.name] = self._terms(kind.products(Counted(nodes, tensors)))
            except InputError as error:  # of a user's function; raised where the kind is asked for
                self._uncounted[kind.name] = error
        used = np.unique(np.concatenate([terms.dims.ravel() for terms in self.terms.values()]))
        self._needs = self.dimensions.needs(used)

    def _terms(self, products: Iterable[Product]) -> Terms:
        return Terms.of([self._row(scale, factors) for scale, factors in products])

    def _row(self, scale: int, factors: Sequence[Factor]) -> tuple[int, list[int]]:
        """A product with sizes that never change multiplied out."""
        if id(factors) in self._rows:  # a parameter counts for several costs
            _, known, numbers = self._rows[id(factors)]
            return scale * known, numbers
        times, numbers = self._multiplied(factors)
        self._rows[id(factors)] = factors, times, numbers
        return scale * times, numbers

    def _multiplied(self, factors: Sequence[Factor]) -> tuple[int, list[int]]:
        """The product of the sizes that never change, and the numbers of the dimensions that can."""
        scale, numbers = 1, []
        lines = self.lines
        for factor in factors:
            if not isinstance(factor, ParameterAxis):
                numbers.append(self.dimensions.number(*factor))
            elif factor in lines:
                numbers.append(lines[factor])
            else:
                scale *= self._shapes[factor.parameter][factor.dim]
        return scale, numbers

    @cached_property
    def lines(self) -> dict[ParameterAxis, int]:
        """The numbers of the dimensions of parameters that can change."""
        return self.dimensions.named_axes()

    @property
    def kinds(self) -> tuple[str, ...]:
        """What is counted, in the order of :meth:`vector`."""
        return tuple(self.terms)

    def number(self, kind: str) -> int:
        """Where :meth:`vector` has a kind.

        Raises:
            InputError: it could not be counted.
        """
        if kind in self._uncounted:
            raise _again(self._uncounted[kind])
        return self.kinds.index(kind)

    @property
    def dense_counts(self) -> Ids:
        """How many entries every dimension has when nothing is gone. [dimensions]"""
        return self.dimensions.counts_of(all_living(self._units.solution))

    @property
    def dense(self) -> Cost:
        """The cost when nothing is gone."""
        return self._cost(self.dense_counts)

    def at(self, alive: Mask) -> Cost:
        """The cost when the classes ``alive`` live."""
        return self._cost(self.dimensions.counts(alive))

    def _cost(self, counts: Ids) -> Cost:
        return Cost({kind: int(terms.values(counts).sum()) for kind, terms in self.terms.items()}, self._uncounted)

    def vector(self, living: Living) -> Scores:
        """The cost as floats, in the order of ``kinds``."""
        return np.array(list(self._cost(self.dimensions.counts_of(living)).counts.values()), np.float64)

    def prices(self, alive: Mask, kinds: Sequence[str], asked: Mask | None = None) -> Scores:
        """By how much costs of these kinds fall when one living class is removed. [kinds, classes]

        Args:
            alive: which classes live.
            kinds: of costs.
            asked: the items whose units are asked for; None: all. [items]
        """
        counts = self.dimensions.counts(alive)
        found = [self._needs.prices(self.terms[kind].slopes(counts), alive, asked) for kind in kinds]
        return found[0][None] if len(found) == 1 else np.array(found).reshape(len(kinds), len(alive))

    def shares(self, units: Units) -> Scores:
        """The part of MACs and of parameters in which each group takes part; parts overlap. [2, groups]"""
        counts = self.dense_counts
        member = self._needs.members(units.group_of, (len(counts), len(units.groups)))
        return np.stack([_touched(terms, counts, member) for terms in (self.terms["macs"], self.terms["params"])])

    def dependent(self, free: Mask) -> Scores:
        """The part of MACs and of parameters that depends on units which may go. ``free`` [classes] -> [2]"""
        counts = self.dense_counts
        member = np.zeros((len(counts), 1), bool)
        member[self._needs.dims_of(free)] = True
        return np.array([_touched(self.terms[kind], counts, member)[0] for kind in ("macs", "params")])

    @property
    def products(self) -> Scores:
        """The MACs of every call that multiplies, in the order of execution. [calls]"""
        return self.terms["macs"].values(self.dense_counts).astype(np.float64)


def _touched(terms: Terms, counts: Ids, member: Mask) -> Scores:
    """The share of a sum's rows that have a dimension of each group. ``member`` [dimensions, groups]"""
    values = terms.values(counts).astype(np.float64)
    touched = np.zeros((len(values), member.shape[1]), bool)
    for column in terms.dims.T:
        touched |= member[column]
    found: Scores = values @ touched / max(values.sum(), 1.0)
    return found
