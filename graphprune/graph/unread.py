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
from graphprune.utils.arrays import Mask

UNREAD = "another input may read what the traced run cuts away"


def fix_unread_entries(labels: Labels, nodes: Sequence[fx.Node], values: Mapping[fx.Node, Any]) -> None:
    """Fix the entries of parameters and buffers that no computation reads, where it reads others beside them."""
    read = _read(labels, nodes, values)
    if read[1:].all():
        return
    for node_index, node in enumerate(nodes):
        value = values[node]
        if node.op != "get_attr" or not isinstance(value, LabelledTensor):
            continue
        labels.node_index = node_index
        for array in value.arrays:
            start = labels.first_of_all(array.ids)
            known = read[array.ids.ravel()] if start is None else read[start : start + array.ids.size]
            if known.any() and not known.all():
                labels.fix([LabelArray(array.ids.ravel()[~known])], UNREAD)


def _read(labels: Labels, nodes: Sequence[fx.Node], values: Mapping[fx.Node, Any]) -> Mask:
    """Which labels occur in what a computation is given, or the model returns; moving tensors about reads nothing."""
    read = np.zeros(labels.count, bool)
    known: set[int] = set()
    whole: set[int] = set()
    for node in nodes:
        if node.op not in ("output", "call_function") or (
            node.op == "call_function" and all(result.movable for result in operands_of(values[node]))
        ):
            continue
        for array in all_arrays([values[given] for given in node.all_input_nodes]):
            if id(array.ids) in known:
                continue
            known.add(id(array.ids))
            start = labels.first_of_any_order(array.ids)
            if start is None:
                read[array.ids.ravel()] = True
            elif start not in whole:
                whole.add(start)
                read[start : start + array.ids.size] = True
    return read
