"""What parameters are used for: which axes meet an input or are factors of a normalization, what are its statistics."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, fx

from graphprune.graph.propagate import Labeling
from graphprune.rules.labels import LabeledTensor, ParameterAxis, parameter_axes
from graphprune.rules.matmul_view import AxisTable, MatmulView
from graphprune.rules.registry import matmul_views, norm_call, rule_of
from graphprune.utils.ancestors import ancestors
from graphprune.utils.arrays import Ids
from graphprune.utils.modules import Tables
from graphprune.utils.operators import is_mutable


def parameters_only(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """Nodes that are computed from parameters, buffers and numbers alone."""
    found: set[fx.Node] = set()
    for node in nodes:
        inputs = node.all_input_nodes
        known = all(n in found for n in inputs) if inputs else node.meta.get("shape") == ()
        if (node.op == "call_function" and known) or (node.op == "get_attr" and "tensor" in node.meta):
            found.add(node)
    return found


def consumed_axes(labeling: Labeling) -> frozenset[ParameterAxis]:
    """Parameter axes that meet an input and are summed over: columns of a linear layer's weight, not its rows.

    So are dimensions of a kernel that are as wide as the input.
    """
    known = parameters_only(labeling.nodes)
    table = AxisTable(labeling.labels.axes)
    found: set[ParameterAxis] = set()
    for node in labeling.nodes:
        matmul = next((f for f in matmul_views(node.target) if node.args[f.weight] in known), None)
        weight = labeling.values[node.args[matmul.weight]] if matmul else None  # type: ignore[index]
        for ids in _summed(node, matmul, weight, table) if matmul and weight is not None else ():
            names = table.names(ids)
            found |= names
            found.update(_merged(node.args[matmul.weight], names))  # type: ignore[union-attr, arg-type]
    return frozenset(found)


def _summed(node: fx.Node, matmul: MatmulView, weight: LabeledTensor, table: AxisTable) -> Iterator[Ids]:
    """The labels of a weight along the dimensions that a call sums over."""
    owners = matmul.owners(weight, node.args, table)
    yield from owners.contracted if owners else ()
    known = rule_of(node.target) if matmul.kernel is not None else None
    sums = known.sums(*node.args, **node.kwargs) if known is not None and known.sums is not None else ()
    space = [dim for position, dims in sums if position == matmul.weight for dim in dims if dim > 1]
    yield from (array.ids for array in weight.touching(space))


def _merged(weight: fx.Node, axes: Iterable[ParameterAxis]) -> Iterator[ParameterAxis]:
    """The same axes of other parameters of this shape that a weight is computed from: labels name one of them."""
    sources = {one.meta["tensor"]: one for one in ancestors([weight]) if "tensor" in one.meta}
    for axis in axes:
        shape = sources[axis.parameter].meta["shape"] if axis.parameter in sources else None
        for name, one in sources.items():
            if one.meta["shape"] == shape:
                yield parameter_axes(name, len(shape))[axis.dim]


def weight_buffers(labeling: Labeling, own: Tables) -> dict[str, Tensor]:
    """The buffers that inputs are multiplied with, by name: converters of other formats keep weights so.

    They are matrices of floats that are saved with the model, and to which no call of it writes.
    """
    matrices = {name: t for name, t in own.unique() if name in own.buffers and _may_be_weight(t) and own.is_saved(name)}
    known = parameters_only(labeling.nodes) if matrices else set()
    found: set[str] = set()
    for node in labeling.nodes if matrices else ():
        for matmul in matmul_views(node.target):
            sources = _sources(node.args[matmul.weight], known)
            found |= sources if sources <= matrices.keys() else set()
        if is_mutable(node.target):
            matrices = {name: t for name, t in matrices.items() if name not in _sources(node.args[0], known)}
    return {name: tensor for name, tensor in matrices.items() if name in found}


def _may_be_weight(tensor: Tensor) -> bool:
    return tensor.ndim > 1 and tensor.is_floating_point() and tensor.numel() > 0


def _sources(operand: Any, known: Container[fx.Node]) -> set[str]:
    """The tensors of a model that an operand is computed from, if from nothing else."""
    made = [operand] if operand in known else []
    return {one.meta["tensor"] for one in ancestors(made) if "tensor" in one.meta}


def scale_axes(labeling: Labeling) -> frozenset[ParameterAxis]:
    """Axes of the factors (gamma) of batch, layer, group and instance normalizations."""
    known = parameters_only(labeling.nodes)
    table = AxisTable(labeling.labels.axes)
    found: set[ParameterAxis] = set()
    for node in labeling.nodes:
        call = norm_call(node.target, node.args, node.kwargs)
        scale = call.weight if call is not None else None
        if isinstance(scale, fx.Node) and scale in known:
            for array in labeling.values[scale].arrays:
                found |= table.names(array.ids)
    return frozenset(found)


def running_statistics(labeling: Labeling) -> frozenset[str]:
    """The parameters and buffers that running means and variances are made of: torch has no gradients of these."""
    calls = [norm_call(node.target, node.args, node.kwargs) for node in labeling.nodes]
    handed = {one for call in calls if call is not None for one in (call.mean, call.variance) if one is not None}
    known = parameters_only(labeling.nodes) if handed else set()
    return frozenset(one.meta["tensor"] for made in handed & known for one in ancestors([made]) if "tensor" in one.meta)
