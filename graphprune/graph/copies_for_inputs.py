"""Copies that a program makes for each entry of an input, as of learned queries for a batch.

Results that are read hold them, but a result may be dropped. There they would be rows of what they meet, all of which
go or none, and a batch of one, for which nothing is copied, would have other groups.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import fx

from graphprune.graph.groups import Units
from graphprune.graph.propagate import Labeling
from graphprune.graph.solve import KINDS
from graphprune.rules.labels import Axis, LabelArray
from graphprune.tracing.sizes import Expr, attributes_of, dims_of
from graphprune.tracing.tracer import Trace
from graphprune.utils.operators import short_name


def fix_copies_for_inputs(trace: Trace, units: Units) -> bool:
    """Fix copies that are one for each entry of an input and go together alone; was there any?"""
    labeling, labels = units.labeling, units.labeling.labels
    found = False
    for axis in _going_together(units):
        node = labeling.nodes[axis.node_index]
        copies = [array for array in labeling.tensor(node).arrays if axis.start in array.ids]
        if any(_one_for_each_entry(labeling, trace, node, array) for array in copies):
            labels.node_index, found = axis.node_index, True
            labels.fix(copies, f"{short_name(node.target)}: one copy for each entry of an input")
    return found


def _going_together(units: Units) -> Iterator[Axis]:
    """The axes of copies that are all one unit, and no rows of a view."""
    items, axes = units.solution.items, units.labeling.labels.axes
    alone = (items.kind == KINDS.index("repeat")) & (items.reason < 0) & (items.parts[:, 0] < 0) & (items.size == 1)
    if not alone.any():
        return
    rows = np.array([axis.kind == "row" for axis in axes])
    alone[items.of[rows[items.axis] & (items.axis >= 0)]] = False
    for number in np.unique(items.axis[alone[items.of]]).tolist():
        if axes[number].kind == "repeat" and len(set(items.of_axis(number).tolist())) == 1:
            yield axes[number]


def _one_for_each_entry(labeling: Labeling, trace: Trace, node: fx.Node, copies: LabelArray) -> bool:
    """Is the dimension of these copies as long as some of which nothing can be removed?"""
    sizes = [use.expr for use in trace.sizes.uses if use.node is node and use.dim in copies.dims]
    return any(_of_inputs(labeling, size) for size in sizes)


def _of_inputs(labeling: Labeling, size: Expr) -> bool:
    """Is a size made of dimensions without labels, and literals, alone?"""
    dims = list(dims_of(size))
    labeled = any(labeling.tensor(at.node).touching([at.dim]) for at in dims)
    return bool(dims) and not labeled and not any(attributes_of(size))
