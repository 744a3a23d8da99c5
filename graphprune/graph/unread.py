"""Entries of parameters and buffers that the traced run cuts away before anything is worked out with them.

A table of positions, a mask or a table of rotations has as many rows as the longest input, and the example reads the
first of them. The others belong to inputs that were not traced, so they stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import fx

from graphprune.rules.labels import LabelArray, LabelledTensor, Labels, all_arrays, operands_of
from graphprune.utils.arrays import Ids, Mask

UNREAD = "another input may read what the traced run cuts away"


def fix_unread_entries(labels: Labels, nodes: Sequence[fx.Node], values: Mapping[fx.Node, Any]) -> None:
    """Fix the entries of parameters and buffers that no computation reads, where it reads others beside them."""
    whole, others = _read(labels, nodes, values)
    left = [
        (node_index, array)
        for node_index, node in enumerate(nodes)
        if node.op == "get_attr" and isinstance(value := values[node], LabelledTensor)
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
