"""Tensors made out of sizes that nothing uses: ``c = torch.zeros(1, batch, self.hidden)`` beside a GRU.

Their sizes follow the program's numbers, and demand nothing of them.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import fx

from graphprune.tracing.sizes import SizeLog, dims_of
from graphprune.utils.operators import is_mutable

aten = torch.ops.aten

_MADE_LIKE = frozenset((aten.new_zeros.default, aten.new_ones.default, aten.new_full.default, aten.new_empty.default))


def unused_tensors(graph: fx.Graph, others: Iterable[fx.Node], log: SizeLog) -> frozenset[fx.Node]:
    """The calls whose results are made of sizes and numbers alone, and of which nothing is used, sizes included.

    Args:
        graph: the recorded calls.
        others: what is used otherwise than by these.
        log: what the program did with sizes.
    """
    nodes = [node for node in graph.nodes if node.op == "call_function"]
    if not [node for node in nodes if not node.users]:
        return frozenset()
    used = {*others, *(node for node, _ in log.values_read)}
    used.update(dim.node for expr in log.expressions() for dim in dims_of(expr))
    unused: set[fx.Node] = set()
    for node in reversed(nodes):
        if node not in used and unused.issuperset(node.users) and not is_mutable(node.target):
            unused.add(node)
    found: set[fx.Node] = set()
    for node in nodes:
        if node in unused and found.issuperset(_inputs(node)):
            found.add(node)
    return frozenset(found)


def _inputs(node: fx.Node) -> list[fx.Node]:
    """The tensors that a call depends on; of ``x.new_zeros(2, 3)`` no more than the type of ``x`` is."""
    inputs: list[fx.Node] = []
    fx.node.map_arg((node.args[1:] if node.target in _MADE_LIKE else node.args, node.kwargs), inputs.append)
    return inputs
