"""What parameter axes are used for: which meet an input, which are factors of a normalization."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from graphprune.graph.propagate import Labeling
from graphprune.rules.labels import ParameterAxis
from graphprune.rules.matmul_view import AxisTable
from graphprune.rules.registry import matmul_views, norm_call


def parameters_only(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """Nodes that are computed from parameters and buffers alone."""
    found: set[fx.Node] = set()
    for node in nodes:
        inputs = node.all_input_nodes
        computed = node.op == "call_function" and inputs and all(n in found for n in inputs)
        if computed or (node.op == "get_attr" and "tensor" in node.meta):
            found.add(node)
    return found


def consumed_axes(labeling: Labeling) -> frozenset[ParameterAxis]:
    """Parameter axes that meet an input: columns of a linear layer's weight, as opposed to its rows."""
    known = parameters_only(labeling.nodes)
    table = AxisTable(labeling.labels.axes)
    found: set[ParameterAxis] = set()
    for node in labeling.nodes:
        matmul = next((f for f in matmul_views(node.target) if node.args[f.weight] in known), None)
        weight = labeling.values[node.args[matmul.weight]] if matmul else None  # type: ignore[index]
        owners = matmul.owners(weight, node.args, table) if matmul and weight is not None else None
        for ids in owners.contracted if owners else ():
            found |= table.names(ids)
    return frozenset(found)


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
