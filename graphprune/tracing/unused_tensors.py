"""Tensors made out of sizes that nothing uses: ``c = torch.zeros(1, batch, self.hidden)`` beside a GRU.

Their sizes follow the program's numbers, and demand nothing of them.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from graphprune.tracing.sizes import SizeLog, dims_of
from graphprune.utils.operators import is_mutable


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
        if node in unused and found.issuperset(node.all_input_nodes):
            found.add(node)
    return frozenset(found)
