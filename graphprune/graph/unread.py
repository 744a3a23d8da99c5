"""Entries of parameters and buffers that other runs use than the traced one.

A table of positions, a mask or a table of rotations has as many rows as the longest input, and the example reads the
first of them. The others belong to inputs that were not traced, so they stay. A queue or a cache of which a run writes
some rows is written elsewhere by the next run, so it keeps its length; so does what is cut where the input ends. What
only decides on a way is what the other way may return, as an early exit does.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from graphprune.rules.labels import LabelArray, LabeledTensor, Labels, all_arrays, operands_of
from graphprune.rules.registry import matmul_views
from graphprune.tracing.outside_tensors import written_bases
from graphprune.tracing.sizes import Expr, dims_of
from graphprune.tracing.tracer import Trace
from graphprune.utils.arrays import Ids, Mask
from graphprune.utils.operators import is_mutable

aten = torch.ops.aten

UNREAD = "another input may read what the traced run cuts away"
CUT = "other inputs are given other entries of it, since it is cut at"
DECIDES = "its values decide what forward does, and on another way it may be returned"
WRITTEN = "forward writes some of its entries, and may write others in another run"


def fix_cut_entries(labels: Labels, trace: Trace, values: Mapping[fx.Node, Any]) -> None:
    """Fix the dimensions of parameters and buffers that are cut at a size of the input: ``table[x.shape[1] :]``."""
    found = [use for use in trace.sizes.uses if use.prefix and is_of_inputs(use.expr, values)]
    constant = _made_of_weights(trace) if found else set()
    for use in found:
        value = values.get(use.node)
        if use.node in constant and isinstance(value, LabeledTensor) and isinstance(use.dim, int):
            labels.node_index = trace.node_index(use.node)
            labels.fix(value.touching([use.dim]), f"{CUT} {use.expr}", use.line)


def is_of_inputs(expr: Expr, values: Mapping[fx.Node, Any]) -> bool:
    """Is a size one that other inputs may have otherwise, such as their length? Channels have labels."""
    plain = (dim for dim in dims_of(expr) if dim.node.op != "get_attr")
    return any(not isinstance(v := values.get(d.node), LabeledTensor) or not v.touching([d.dim]) for d in plain)


def _made_of_weights(trace: Trace) -> set[fx.Node]:
    """The nodes of parameters and buffers, and those of what is made of these alone."""
    found: set[fx.Node] = set()
    for node in trace.graph.nodes:
        if node.op == "get_attr" or (node.all_input_nodes and found.issuperset(node.all_input_nodes)):
            found.add(node)
    return found


def fix_deciding_entries(labels: Labels, trace: Trace, values: Mapping[fx.Node, Any]) -> None:
    """Fix what layers give that is used for nothing but numbers which the program reads: ``if exit.max() > 0.9``.

    Calls that are repeated are passed over: with the same inputs, they find that nothing changed.
    """
    nodes = list(trace.graph.nodes)
    lines = {node: node.meta.get("line") for node in nodes if node.target is aten._local_scalar_dense.default}
    lines.update(trace.sizes.values_read)
    for node in nodes[trace.evaluated : trace.repeated]:
        lines.pop(node, None)
    decides = _only_read(nodes, lines) if lines else set()
    seen: set[fx.Node] = set()
    for read in (node for node in lines if node in decides):
        left = [read]
        while left:
            node = left.pop()
            seen.add(node)
            if matmul_views(node.target):
                labels.node_index = trace.node_index(node)
                labels.fix(all_arrays(values[node]), DECIDES, lines[read])
            else:
                left += [n for n in node.all_input_nodes if n in decides and n not in seen]


def _only_read(nodes: Sequence[fx.Node], read: Container[fx.Node]) -> set[fx.Node]:
    """The calls of which nothing is used but numbers that the program reads. (What is not used at all says nothing.)

    What a call writes to a part of a tensor may be used as a part of that.
    """
    found: set[fx.Node] = set()
    unused: set[fx.Node] = set()
    for node in reversed(nodes):
        writes = not node.users and is_mutable(node.target)
        if node.op == "call_function" and not writes and all(user in found or user in unused for user in node.users):
            (unused if node not in read and found.isdisjoint(node.users) else found).add(node)
    return found


def fix_written_entries(labels: Labels, nodes: Sequence[fx.Node], values: Mapping[fx.Node, Any]) -> None:
    """Fix the dimensions of parameters and buffers along which the traced run writes to some entries, not to all."""
    pairs = ((index, *pair) for index, node in enumerate(nodes) for pair in written_bases(node))
    for node_index, written, base in pairs:
        if base.op == "get_attr" and base is not written and isinstance(values[base], LabeledTensor):
            known = [array.ids.ravel() for array in all_arrays(values[written])]
            reached = np.concatenate([np.zeros(0, np.int64), *known])
            held = [array for array in values[base].arrays if not np.isin(array.ids, reached).all()]
            labels.node_index = node_index
            labels.fix(held, WRITTEN)


def fix_unread_entries(labels: Labels, nodes: Sequence[fx.Node], values: Mapping[fx.Node, Any]) -> None:
    """Fix the entries of parameters and buffers that no computation reads, where it reads others beside them."""
    whole, others = _read(labels, nodes, values)
    left = [
        (node_index, array)
        for node_index, node in enumerate(nodes)
        if node.op == "get_attr" and isinstance(value := values[node], LabeledTensor)
        for array in value.arrays
        if labels.axis_of_all(array.ids) not in whole
    ]
    read = _mask(labels, whole, others) if left else np.zeros(0, bool)
    for node_index, array in left:
        known = read[array.ids.ravel()]
        if known.any() and not known.all():
            labels.node_index = node_index
            labels.fix([LabelArray(array.ids.ravel()[~known])], UNREAD)


def _read(labels: Labels, nodes: Sequence[fx.Node], values: Mapping[fx.Node, Any]) -> tuple[set[int], list[Ids]]:
    """Which labels occur in what a computation is given, or the model returns; moving tensors about reads nothing.

    Returns:
        The numbers of the axes of which all labels do, and other labels that do.
    """
    whole: set[int] = set()
    others: dict[int, Ids] = {}
    given = {of: None for node in nodes if _computes(node, values) for of in node.all_input_nodes}
    for array in all_arrays([values[node] for node in given]):
        axis = labels.axis_in_any_order(array.ids)
        if axis is None:
            others[id(array.ids)] = array.ids
        else:
            whole.add(axis)
    return whole, list(others.values())


def _computes(node: fx.Node, values: Mapping[fx.Node, Any]) -> bool:
    """Is it a call that does more than to move parameters about, or the model's end?"""
    if node.op == "call_function":
        return bool([result for result in operands_of(values[node]) if not result.movable])
    return node.op == "output"


def _mask(labels: Labels, whole: set[int], others: Sequence[Ids]) -> Mask:
    """For every label, whether it is read."""
    read = np.zeros(labels.count, bool)
    for number, axis in enumerate(labels.axes):
        if number in whole:
            read[axis.start : axis.start + axis.size] = True
    for ids in others:
        read[ids.ravel()] = True
    return read
