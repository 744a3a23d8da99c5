"""The sums by which branches of a network join: they tie the channels that different layers make.

``h + h**3``, as in an activation function that is written out, is one layer's. What is the same at all places, as the
embedding of a time step, is added to a branch and is none. And sums of what layers make of the same tensor, with
nothing between that is not linear, are one layer's in several parts, as ``W x + B A x`` is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from itertools import combinations
from typing import Any

import torch
from torch import fx

from graphprune.graph.channel_makers import ChannelMakers
from graphprune.graph.propagate import Labeling
from graphprune.rules.labels import LabeledTensor
from graphprune.rules.registry import has_trait, norm_of, rule_of
from graphprune.rules.traits import Trait
from graphprune.utils.operators import argument_of

aten = torch.ops.aten


def residual_sums(labeling: Labeling) -> list[LabeledTensor]:
    """The results of sums and differences of activations that different layers made in branches of a network."""
    calls = [node for node in labeling.nodes if node.op == "call_function"]
    adding = [c for c in calls if c.target in _OTHER_SUMS or has_trait(c.target, Trait.ADDS, Trait.SUBTRACTS)]
    sums = [(call, added) for call in adding if (added := _summands(labeling, call))]
    if not sums:
        return []
    makers = ChannelMakers(labeling)
    linear = _LinearParts(makers.weights)
    return [
        labeling.values[node]
        for node, added in sums
        if any(makers.differ(*pair) and not linear.of_one_tensor(*pair) for pair in combinations(added, 2))
    ]


def _summands(labeling: Labeling, node: fx.Node) -> list[fx.Node]:
    """The activations that a call adds, or none: each has an entry for every place of a sample.

    What adds a product to an activation stands for that product.
    """
    added = _OTHER_SUMS.get(node.target, _operands)(node)
    given = [a for a in added if isinstance(a, fx.Node) and labeling.tensor(a).arrays]
    if len(given) < 2:
        return []
    places = labeling.tensor(node).shape[1:]
    return given if not places or all(labeling.tensor(one).shape[-len(places) :] == places for one in given) else []


def _operands(node: fx.Node) -> Sequence[Any]:
    """The first two operands, of which one may be weighted."""
    return node.args[:2]


def _with_product(node: fx.Node) -> Sequence[Any]:
    """The first operand, unless it is a bias, and the product of the others."""
    first: Any = node.args[0]
    return (first, node) if first.op == "call_function" else ()


def _stacked(node: fx.Node) -> Sequence[Any]:
    """What was stacked along the dimension of which this is the sum or mean."""
    made: Any = node.args[0]
    if made.target is not aten.stack.default:
        return ()
    rank, dim = len(made.meta["shape"]), argument_of(made.target, made.args, made.kwargs, 1)
    dims: Any = node.args[1]
    return made.args[0] if [d % rank for d in dims or ()] == [dim % rank] else ()


_PLUS_PRODUCT = (aten.addmm.default, aten.baddbmm.default)
_OTHER_SUMS: dict[Any, Callable[[fx.Node], Sequence[Any]]] = {
    **dict.fromkeys((aten.lerp.Scalar, aten.lerp.Tensor, aten.addcmul.default), _operands),
    **dict.fromkeys(_PLUS_PRODUCT, _with_product),
    **dict.fromkeys((aten.sum.dim_IntList, aten.mean.dim), _stacked),
}
"""What else adds, and which operands of it."""


_PASSES = (Trait.IDENTITY, Trait.DETACHES, Trait.DROPS, Trait.MOVES, Trait.SCALES, Trait.DIVIDES, Trait.ADDS)
"""What a linear layer's result may go through, beside a weight or a number, and be one still."""


class _LinearParts:
    """From which activation, by products with weights and nothing that is not linear, other activations come.

    Args:
        weights: parameters, and what is worked out from them alone.
    """

    def __init__(self, weights: Set[fx.Node]) -> None:
        self._weights = weights

    def of_one_tensor(self, one: fx.Node, other: fx.Node) -> bool:
        """Are both made by weights from the same activation?"""
        (a, made_a), (b, made_b) = self._source(one), self._source(other)
        return a is b and made_a and made_b

    def _source(self, node: fx.Node) -> tuple[fx.Node, bool]:
        """Where a linear path to an activation begins, and whether a product with a weight lies on it."""
        made = False
        while (before := self._before(node)) is not None:
            node, made = before, made or not has_trait(node.target, *_PASSES)
        return node, made

    def _before(self, node: fx.Node) -> fx.Node | None:
        """The only activation of which a call is a linear function, if it is one."""
        given = node.all_input_nodes[1:] if node.target in _PLUS_PRODUCT else node.all_input_nodes
        activations = [operand for operand in given if operand not in self._weights]
        if node.op != "call_function" or len(activations) != 1:
            return None
        linear = has_trait(node.target, *_PASSES) or self._is_product(node)
        return activations[0] if linear else None

    def _is_product(self, node: fx.Node) -> bool:
        """Does a call sum over dimensions of two operands, an activation and a weight?"""
        known = rule_of(node.target)
        pairs = known.sums(*node.args, **node.kwargs) if known is not None and known.sums is not None else ()
        return len(pairs) == 2 and norm_of(node.target) is None
