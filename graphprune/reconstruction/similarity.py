"""Second moments of a group's channels, from parameters alone, and the weights that read the channels.

For white inputs, the channels have the second moments of the rows of the weight that produces them. A batch
normalization that follows determines their scale: its output has standard deviation ``|gamma|`` and mean ``beta``. The
moments of parallel weights (a residual sum) are added; a weight of one input channel each (a depthwise convolution)
multiplies the moments of its inputs.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from graphprune.graph.analysis import Analysis
from graphprune.graph.groups import Group, Units
from graphprune.graph.roles import CHANNELS
from graphprune.rules.labels import ParameterAxis, all_arrays
from graphprune.rules.matmul_view import AxisTable, MatmulView
from graphprune.rules.norm import NormCall
from graphprune.rules.registry import has_trait, matmul_views, norm_call
from graphprune.rules.traits import Trait
from graphprune.utils.arrays import Ids
from graphprune.utils.modules import named_tensors
from graphprune.utils.operators import short_name


@dataclass(frozen=True)
class ReadingWeight:
    """A weight that sums over a group's channels, along ``dim``; ``axis`` is both, ``"fc.weight[1]"``.

    ``variance`` is the running variance of the batch normalization that follows, or empty.
    """

    weight: str
    dim: int
    variance: str

    @property
    def axis(self) -> ParameterAxis:
        return ParameterAxis(self.weight, self.dim)


@dataclass(frozen=True, eq=False)
class ChannelSimilarity:
    """Moments of a group's channels, up to a common factor: covariance [units, units], means [units, entries]."""

    covariance: Tensor
    mean: Tensor
    readers: tuple[ReadingWeight, ...]

    @property
    def second(self) -> Tensor:
        """E[x xᵀ]. [units, units]"""
        return self.covariance + self.mean @ self.mean.mT


@dataclass
class _Call:
    """A contraction of an activation with a weight, which is a parameter or its transpose."""

    node: fx.Node
    matmul: MatmulView
    weight: str
    bias: str
    contracted: frozenset[ParameterAxis]
    inputs: frozenset[int]
    norm: NormCall | None = None


@dataclass
class _Refusals:
    """Why the moments of groups, by number, cannot be computed from parameters; the first reason is kept."""

    reasons: dict[int, str] = field(default_factory=dict)

    def add(self, groups: Iterable[int], reason: str) -> None:
        for number in groups:
            self.reasons.setdefault(number, reason)


def entries_of(units: Units, group: Group, axis: ParameterAxis) -> Ids:
    """The indexes along a parameter axis of each unit of a group, in order. [units, entries]; [0, 0] if ragged"""
    unit, index = units.entries_of(group, next(i for i, a in enumerate(units.axes) if a.name == axis))
    counts = np.bincount(unit, minlength=group.units)
    return index.reshape(group.units, -1) if (counts == counts[0]).all() else np.zeros((0, 0), np.int64)


class SimilarityModel:
    """The contractions of a traced model: weights that produce each group's channels, that read them, other uses."""

    def __init__(self, graph: Analysis) -> None:
        self.units = graph.units
        self.tensors = dict(named_tensors(graph.model))
        self.labeling = graph.labeling
        nodes = graph.trace.evaluated_nodes
        self._table = AxisTable(graph.labeling.labels.axes)
        self._names: dict[fx.Node, frozenset[str]] = {}
        self._uses: Counter[str] = Counter()
        self._refusals = _Refusals()
        self._calls = [call for node_index, node in enumerate(nodes) if (call := self._visit(node_index, node))]
        self._read = Counter(axis for call in self._calls for axis in call.contracted)

    # ------------------------------------------------------------ one pass over the graph

    def _visit(self, node_index: int, node: fx.Node) -> _Call | None:
        names = [self._names[n] for n in node.all_input_nodes if n in self._names]
        if node.op == "get_attr" and "tensor" in node.meta:
            self._names[node] = frozenset((node.meta["tensor"],))
        elif node.op == "call_function" and names and len(names) == len(node.all_input_nodes):
            self._names[node] = frozenset().union(*names)
        elif node.op == "call_function":
            self._uses.update(name for found in names for name in found)
            return self._record_call(node_index, node)
        return None

    def _record_call(self, node_index: int, node: fx.Node) -> _Call | None:
        call = self._call(node)
        allowed = self._groups_of_axes(call.contracted) if call else frozenset()
        ended = self._groups(node.all_input_nodes) - self._groups([node]) - allowed
        if ended and node.target is not operator.getitem and not _is_view(node):
            self._refusals.add(ended, f"{short_name(node.target)} reads it without a weight of its own")
        if node_index in self.labeling.labels.facts.mixing:
            self._refusals.add(self._groups([*node.all_input_nodes, node]), f"{short_name(node.target)} mixes channels")
        return call

    def _call(self, node: fx.Node) -> _Call | None:
        matmul = next((f for f in matmul_views(node.target) if node.args[f.weight] in self._names), None)
        if matmul is None:
            return None
        weight: Any = node.args[matmul.weight]
        owners = matmul.owners(self.labeling.values[weight], node.args, self._table)
        contracted = [self._table.names(ids) for ids in owners.contracted] if owners and owners.blocks == 1 else []
        bias: Any = node.args[matmul.bias] if matmul.intercept(node.args) else None  # type: ignore[index]
        return _Call(
            node,
            matmul,
            self._plain(weight),
            self._plain(bias),
            frozenset[ParameterAxis]().union(*contracted),
            self._groups([node.args[matmul.x]]),
            _following(node),
        )

    def _plain(self, node: Any) -> str:
        """The parameter that a node is, as it is or transposed; empty if there is none or it is computed."""
        while isinstance(node, fx.Node) and has_trait(node.target, Trait.TRANSPOSES, Trait.DETACHES):
            node = node.args[0]
        return node.meta["tensor"] if isinstance(node, fx.Node) and node.op == "get_attr" else ""

    def _groups(self, nodes: Iterable[Any]) -> frozenset[int]:
        """The groups whose channels occur in the tensors of nodes."""
        arrays = all_arrays([self.labeling.values.get(n) for n in nodes if isinstance(n, fx.Node)])
        ids = [array.ids.ravel() for array in arrays]
        return self._groups_of(self.units.solution.of[np.concatenate(ids)]) if ids else frozenset()

    def _groups_of_axes(self, axes: Collection[str]) -> frozenset[int]:
        classes = [self.units.labels_of(a) for a in self.units.axes if a.name in axes]
        return self._groups_of(np.concatenate(classes)) if classes else frozenset()

    def _groups_of(self, classes: Ids) -> frozenset[int]:
        units = self.units.solution.expand(np.unique(classes))[0]
        return frozenset(np.unique(self.units.group_of[units]).tolist()) - {-1}

    # ------------------------------------------------------------ one group

    def of_group(self, group: Group) -> ChannelSimilarity | str:
        """Moments of a group's channels, or why they cannot be computed."""
        number = int(self.units.group_of[group.unit_ids[0]])
        makers = [
            (c, a) for c in self._calls for a in group.axes if a.parameter == c.weight != "" and a not in c.contracted
        ]
        readers = {axis: [c for c in self._calls if axis in c.contracted] for axis in group.axes}
        reason = self._refusal(group, number, makers, readers)
        if reason:
            return reason
        covariance, mean = self._moments(group, number, makers)
        found = (
            ReadingWeight(axis.parameter, axis.dim, self._variance(calls)) for axis, calls in readers.items() if calls
        )
        return ChannelSimilarity(covariance, mean, tuple(found))

    def _refusal(
        self,
        group: Group,
        number: int,
        makers: list[tuple[_Call, ParameterAxis]],
        readers: dict[ParameterAxis, list[_Call]],
    ) -> str:
        if group.role not in CHANNELS:
            return f"its role is {group.role!r}, whose units' effects do not add up"
        if number in self._refusals.reasons:
            return self._refusals.reasons[number]
        known = {name for call, axis in makers for name in (axis.parameter, call.bias, *self._norm_names(call))}
        for axis, calls in readers.items():
            name = axis.parameter
            if calls and (self._uses[name] > self._read[axis] or name in known or not calls[0].weight):
                return f"{name} is computed, or used otherwise than as a weight that reads it"
            if not calls and name not in known:
                return f"{axis} is neither made by a weight nor reads it"
            if not entries_of(self.units, group, axis).size:
                return f"its channels have different numbers of entries in {axis}"
        if not makers or not any(readers.values()):
            return "no weight makes it" if not makers else "no weight reads it"
        widths = {entries_of(self.units, group, axis).shape[1] for _, axis in makers}
        chained = any(number in call.inputs for call, _ in makers)
        return "its weights make different numbers of entries" if len(widths) > 1 or (chained and widths != {1}) else ""

    def _norm_names(self, call: _Call) -> list[str]:
        """Weight, bias, running mean and variance of the batch normalization after a contraction; empty if absent."""
        norm = call.norm
        return [self._plain(v) for v in (norm.weight, norm.bias, norm.mean, norm.variance)] if norm else [""] * 4

    def _variance(self, calls: list[_Call]) -> str:
        return self._norm_names(calls[0])[3] if len(calls) == 1 else ""

    # ------------------------------------------------------------ moments

    def _moments(self, group: Group, number: int, makers: list[tuple[_Call, ParameterAxis]]) -> tuple[Tensor, Tensor]:
        """Covariance [units, units] and means [units, entries], by the producing weights in order of execution."""
        covariance = torch.zeros(group.units, group.units, dtype=torch.float64, device="cpu")
        mean: Tensor = torch.zeros(group.units, 1, dtype=torch.float64, device="cpu")
        for call, axis in makers:
            rows, shift = self._rows(group, call, axis)
            if number in call.inputs:
                covariance, mean = covariance * _products(rows[:, 0]), mean * rows.sum(2) + shift
                covariance, mean = self._normalized(group, call, covariance, mean)
            else:
                flat, shift = self._scaled(group, call, rows, shift)
                covariance, mean = covariance + _products(flat.flatten(1)), mean + shift
        return covariance, mean

    def _rows(self, group: Group, call: _Call, axis: ParameterAxis) -> tuple[Tensor, Tensor]:
        """Weights [units, entries, inputs] and bias [units, entries]."""
        weight = precise(self.tensors[call.weight]).movedim(axis.dim, 0)
        weight = weight.reshape(len(weight), -1)
        rows = weight[entries_of(self.units, group, axis)]
        return rows, self._vector(group, call.bias, 0.0, rows)

    def _vector(self, group: Group, name: str, default: float, rows: Tensor) -> Tensor:
        """The entries of a vector of each unit; ``default`` without a vector. [units, entries]"""
        if not name:
            return torch.full(rows.shape[:2], default, dtype=torch.float64, device="cpu")
        return precise(self.tensors[name])[entries_of(self.units, group, ParameterAxis(name, 0))].double()

    def _scaled(self, group: Group, call: _Call, rows: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and means after the batch normalization that follows, if one does."""
        if call.norm is None:
            return rows, shift
        gamma, beta, *_ = self._norm_names(call)
        length = rows.norm(dim=2).clamp(min=torch.finfo(rows.dtype).tiny)
        factor = self._vector(group, gamma, 1.0, rows) / length
        return rows * factor.unsqueeze(2).to(rows.dtype), self._vector(group, beta, 0.0, rows)

    def _normalized(self, group: Group, call: _Call, covariance: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Moments after the batch normalization that follows, if one does."""
        if call.norm is None:
            return covariance, mean
        gamma, beta, *_ = self._norm_names(call)
        deviation = covariance.diagonal().clamp(min=torch.finfo(mean.dtype).tiny).sqrt()
        factor = self._vector(group, gamma, 1.0, mean.unsqueeze(2))[:, 0] / deviation
        return covariance * factor * factor.unsqueeze(1), self._vector(group, beta, 0.0, mean.unsqueeze(2))


def precise(tensor: Tensor) -> Tensor:
    """A tensor with at least single precision, on the CPU."""
    return tensor.detach().to("cpu", torch.promote_types(tensor.dtype, torch.float32))


def _products(rows: Tensor) -> Tensor:
    return (rows @ rows.mT).double()


def _is_view(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(result.alias_info is not None for result in schema.returns)


def _following(node: fx.Node) -> NormCall | None:
    """The batch normalization with running statistics that alone takes what ``node`` makes."""
    if len(node.users) != 1:
        return None
    (user,) = node.users
    call = norm_call(user.target, user.args, user.kwargs)
    return call if call is not None and call.x is node and call.uses_running_statistics else None
