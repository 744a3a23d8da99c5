"""What the nodes of a graph are computed from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import Any, TypeVar

N = TypeVar("N")


def ancestors(
    nodes: Iterable[N], operands: Callable[[Any], Iterable[N]] = attrgetter("all_input_nodes")
) -> Iterator[N]:
    """Nodes and all that they are computed from, each once, depth first.

    Args:
        nodes: where to begin.
        operands: which operands of a node to go on with; called for a node after it was returned.
    """
    waiting = [*nodes]
    seen = {*waiting}
    while waiting:
        one = waiting.pop()
        yield one
        new = [other for other in operands(one) if other not in seen]
        waiting += new
        seen.update(new)
