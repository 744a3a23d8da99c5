"""The arguments of a traced call in the slim model: sizes, counts and places follow what is left."""

from __future__ import annotations

from typing import Any

from torch import fx

from graphprune.graph.size_model import SizeModel
from graphprune.rules.labels import LabeledTensor
from graphprune.rules.registry import Slim, rule_of
from graphprune.utils.arrays import Mask, Shape


def slim_shapes(sizes: SizeModel, alive: Mask, node: fx.Node) -> tuple[Shape, ...]:
    """The shapes of the results of a call when the classes ``alive`` live."""
    dense = sizes.labeling.values[node]
    results = dense if isinstance(dense, tuple) else (dense,)
    return tuple(tuple(sizes.count_in(alive, one, d) for d in range(one.ndim)) for one in results)


def slim_arguments(sizes: SizeModel, alive: Mask, node: fx.Node, outs: tuple[Shape, ...]) -> Any:
    """The positional arguments of a call, tensors as nodes, with those that are sizes as its rule says.

    Args:
        sizes: of the traced model.
        alive: the classes that live.
        node: the call.
        outs: the slim shapes of its results.
    """
    rule = rule_of(node.target)
    if rule is None or rule.resize is None:
        return node.args
    labeling, first = sizes.labeling, node.args[0]
    dense = labeling.values[first] if isinstance(first, fx.Node) else None

    def position(dim: int, stop: int) -> int:
        if not isinstance(dense, LabeledTensor):
            return stop
        return sizes.count_in(alive, dense, dim % dense.ndim, stop)

    counts = {name: sizes.count_in(alive, value, 0) for name, value in labeling.counts.get(node, {}).items()}
    marked = (dense, *node.args[1:]) if dense is not None else node.args
    resized = rule.resize(Slim(outs, position, counts), marked)
    return (first, *resized[1:]) if dense is not None else resized
