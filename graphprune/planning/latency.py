"""Latency as a cost: measured kernels, looked up for any choice of channels.

Every operation of the traced graph that computes something is a kernel with a few sizes that pruning may change. Its
time is measured on this machine at the steps of a grid, when a search first asks for it, kept on disk, and interpolated
between. The sum is calibrated against the latency of the model itself (:mod:`graphprune.planning.latency_search`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from graphprune.graph.dimensions import Dimensions
from graphprune.graph.groups import Units
from graphprune.graph.propagate import Labeling
from graphprune.graph.size_model import SizeModel
from graphprune.planning.kernel_table import KernelTable
from graphprune.rules.labels import LabeledTensor
from graphprune.rules.registry import Slim, has_trait, rule_of
from graphprune.rules.traits import Trait
from graphprune.utils.arrays import Mask, Scores
from graphprune.utils.float_types import is_float_type
from graphprune.utils.operators import Args

STEPS = 8
"""A size is measured at about this many multiples."""


ALIGNMENT = 16
"""Kernels are written for multiples of this many channels."""


@dataclass(frozen=True, eq=False)
class Kernel:
    """One operation. ``dims`` are the numbers of its sizes that may change.

    ``shapes`` (and ``outs``, of the first result) have for every tensor argument its sizes: a whole number, or
    ``-1 - place in dims``; ``counts`` likewise for integer arguments such as ``groups``. The sizes of a ``tied``
    kernel only change together: it is measured where it is asked for, not on a grid.
    """

    node: fx.Node
    dims: tuple[int, ...]
    shapes: tuple[tuple[int, ...], ...]
    outs: tuple[tuple[int, ...], ...]
    counts: dict[str, int]
    tied: bool

    def name(self, sizes: tuple[int, ...]) -> str:
        """What it is called in a table."""
        tensors = [_filled(shape, sizes) for shape in self.shapes]
        counts = {name: _filled((n,), sizes)[0] for name, n in self.counts.items()}
        rest = [None if isinstance(a, fx.Node) else a for a in self.node.args]
        plain = [a for a in rest if not isinstance(a, tuple | list) or not any(map(_is_node, a))]
        return f"{self.node.target} {tensors} {plain} {counts} {self.node.meta.get('dtype', '')}"

    def call(self, sizes: tuple[int, ...], device: torch.device) -> Callable[[], Any]:
        """The operation on tensors of these sizes."""
        shapes = iter(self.shapes)

        def fill(value: Any) -> Any:
            if isinstance(value, fx.Node):
                return _sample(value, _filled(next(shapes), sizes), device)
            if isinstance(value, tuple | list):
                return [fill(v) for v in value]
            return device if isinstance(value, torch.device) else value

        args = tuple(fill(a) for a in self.node.args)
        kwargs = {k: fill(v) for k, v in self.node.kwargs.items()}
        args = self._resized(args, sizes)
        op: Any = self.node.target
        return lambda: op(*args, **kwargs)

    def _resized(self, args: Args, sizes: tuple[int, ...]) -> Args:
        rule = rule_of(self.node.target)
        if rule is None or rule.resize is None or not self.outs:
            return args
        outs = tuple(tuple(_filled(shape, sizes)) for shape in self.outs)
        counts = {name: _filled((n,), sizes)[0] for name, n in self.counts.items()}
        resized: Args = rule.resize(Slim(outs, lambda dim, stop: stop, counts), args)
        return resized


def _is_node(value: Any) -> bool:
    return isinstance(value, fx.Node)


def _filled(shape: tuple[int, ...], sizes: tuple[int, ...]) -> list[int]:
    return [n if n >= 0 else sizes[-1 - n] for n in shape]


def _sample(node: fx.Node, shape: list[int], device: torch.device) -> Tensor:
    dtype = node.meta["dtype"]
    if is_float_type(dtype):
        return torch.rand(shape, device=device, dtype=dtype, generator=torch.Generator(device).manual_seed(0))
    return torch.zeros(shape, device=device, dtype=dtype)


class LatencyModel:
    """What a traced model takes, as a function of what lives: the sum of its kernels."""

    def __init__(self, labeling: Labeling, units: Units, nodes: Sequence[fx.Node], table: KernelTable) -> None:
        self.table = table
        self.labeling = labeling
        self.dimensions = Dimensions(SizeModel(labeling, units.solution, units.solution.prunable))
        nodes = [n for n in nodes if _computes(n)]
        self._register(nodes)
        self._needs = self.dimensions.needs()
        self._alike = self._needs.signatures()
        self._dense = self.dimensions.counts(np.ones(units.solution.count, bool))
        self._first: dict[object, int] = {}
        self.kernels = [self._kernel(node) for node in nodes]
        self._seen: list[dict[tuple[int, ...], float]] = [{} for _ in nodes]

    def _register(self, nodes: Sequence[fx.Node]) -> None:
        """Give every size that takes part in a kernel its number."""
        for node in nodes:
            first = _first_output(node)
            for tensor in (*_tensors(node), *([first] if first is not None else [])):
                for dim in range(len(tensor.meta["shape"])):
                    self.dimensions.number(tensor, dim)
            for value in self.labeling.counts.get(node, {}).values():
                self._count_number(value)

    def _count_number(self, value: LabeledTensor) -> int:
        classes = [self.dimensions.sizes.solution.of[array.ids.ravel()] for array in value.arrays if array.dims]
        return self.dimensions.line(classes[0]) if classes else 0

    def _kernel(self, node: fx.Node) -> Kernel:
        places: dict[object, int] = {}
        shapes = tuple(self._shape(argument, places) for argument in _tensors(node))
        first = _first_output(node)
        outs = (self._shape(first, places),) if first is not None else ()
        counts = {}
        for name, value in self.labeling.counts.get(node, {}).items():
            counts[name] = self._size(self._count_number(value), value.shape[0], places)
        dims = tuple(self._first[key] for key in places)
        tied = bool(counts) or len(dims) > 2 or not self.dimensions.grids.isdisjoint(dims)
        return Kernel(node, dims, shapes, outs, counts, tied)

    def _shape(self, node: fx.Node, places: dict[object, int]) -> tuple[int, ...]:
        sizes = enumerate(node.meta["shape"])
        return tuple(self._size(self.dimensions.number(node, d), int(size), places) for d, size in sizes)

    def _size(self, number: int, size: int, places: dict[object, int]) -> int:
        """A size that may change becomes ``-1 - place``; sizes that need the same units are one."""
        if number not in self._alike and number not in self.dimensions.grids:
            return size
        key = size, self._alike.get(number, f"grid {number}")
        self._first.setdefault(key, number)
        return -1 - places.setdefault(key, len(places))

    def seconds(self, alive: Mask) -> float:
        """The sum over all kernels."""
        counts = self.dimensions.counts(alive)
        return sum(self._time(i, tuple(counts[list(k.dims)].tolist())) for i, k in enumerate(self.kernels))

    def dense_size(self, dim: int) -> int:
        """A size of the dense model, by its number."""
        return int(self._dense[dim])

    def shares(self, units: Units) -> Scores:
        """The part of the dense model's time in which each group takes part; parts overlap. [groups]"""
        member = self._needs.members(units.group_of, (len(self._dense), len(units.groups)))
        times = [self._time(i, tuple(self._dense[list(k.dims)].tolist())) for i, k in enumerate(self.kernels)]
        touched = np.array([member[list(kernel.dims)].any(axis=0) for kernel in self.kernels]).reshape(len(times), -1)
        found: Scores = np.array(times) @ touched / max(sum(times), 1e-15)
        return found

    def prices(self, alive: Mask, asked: Mask | None = None) -> Scores:
        """By how much the latency falls with one unit less, of these items. [classes]"""
        counts = self.dimensions.counts(alive)
        slopes = np.zeros(len(counts))
        for i, kernel in enumerate(self.kernels):
            for dim, slope in zip(kernel.dims, self._slopes(i, tuple(counts[list(kernel.dims)].tolist())), strict=True):
                slopes[dim] += slope
        return self._needs.prices(slopes, alive, asked)

    def _slopes(self, number: int, sizes: tuple[int, ...]) -> list[float]:
        """Seconds for each entry of every size, from here a step down."""
        kernel, here = self.kernels[number], self._time(number, sizes)
        if kernel.tied:
            return [here / max(size, 1) / len(sizes) for size in sizes]
        slopes = []
        for i, size in enumerate(sizes):
            below = max((p for p in self._grid(kernel.dims[i]) if p < size), default=0)
            if not below:
                slopes.append(0.0)
                continue
            less = self._time(number, (*sizes[:i], below, *sizes[i + 1 :]))
            slopes.append(max(here - less, 0.0) / (size - below))
        return slopes

    def _time(self, number: int, sizes: tuple[int, ...]) -> float:
        seen = self._seen[number]
        if sizes not in seen:
            kernel = self.kernels[number]
            exact = kernel.tied or not sizes
            seen[sizes] = self._measured(kernel, sizes) if exact else self._between(kernel, sizes)
        return seen[sizes]

    def _measured(self, kernel: Kernel, sizes: tuple[int, ...]) -> float:
        """As the table has it; in proportion to the dense time where sizes do not fit each other.

        Some go together, and nothing tells: a table with a row for each head is made of a number.
        """
        dense = tuple(self._dense[list(kernel.dims)].tolist())
        try:
            return self.table.seconds(kernel.name(sizes), lambda: kernel.call(sizes, self.table.device))
        except RuntimeError:
            if sizes == dense:
                raise
        return self._measured(kernel, dense) * float(np.prod(np.array(sizes) / np.maximum(dense, 1)))

    def _between(self, kernel: Kernel, sizes: tuple[int, ...]) -> float:
        """Linear interpolation in every size between the neighboring points of the grid."""
        corners = [_neighbors(self._grid(dim), size) for dim, size in zip(kernel.dims, sizes, strict=True)]
        total = 0.0
        for corner in product(*corners):
            weight = float(np.prod([w for _, w in corner]))
            if weight:
                total += weight * self._measured(kernel, tuple(p for p, _ in corner))
        return total

    def _grid(self, dim: int) -> list[int]:
        """The multiples at which a size is measured."""
        dense = self.dense_size(dim)
        step = ALIGNMENT * max(1, round(dense / STEPS / ALIGNMENT))
        return sorted({min(ALIGNMENT // 2, dense), *range(step, dense, step), dense})


def _neighbors(grid: list[int], size: int) -> list[tuple[int, float]]:
    """The points around ``size`` with their weights."""
    above = next((p for p in grid if p >= size), grid[-1])
    below = max((p for p in grid if p <= size), default=grid[0])
    if above == below:
        return [(above, 1.0)]
    share = (size - below) / (above - below)
    return [(below, 1 - share), (above, share)]


def _computes(node: fx.Node) -> bool:
    """Does a node run a kernel on floats, rather than look at a tensor in another way?"""
    schema = getattr(node.target, "_schema", None)
    dtype = node.meta.get("dtype") or (first.meta["dtype"] if (first := _first_output(node)) is not None else None)
    if schema is None or not schema.returns or not _tensors(node) or dtype is None or not dtype.is_floating_point:
        return False
    alias = schema.returns[0].alias_info
    return (alias is None or alias.is_write) and not has_trait(node.target, Trait.RESHAPES)


def _tensors(node: fx.Node) -> list[fx.Node]:
    """The tensors that a call is given, in order."""
    found: list[fx.Node] = []
    for value in (*node.args, *node.kwargs.values()):
        found.extend(v for v in (value if isinstance(value, tuple | list) else (value,)) if isinstance(v, fx.Node))
    return found


def _first_output(node: fx.Node) -> fx.Node | None:
    """The node of a call's (first) result; None: it is not used."""
    if "shapes" not in node.meta:
        return node if "shape" in node.meta else None
    return next((user for user in node.users if user.target is operator.getitem and user.args[1] == 0), None)
