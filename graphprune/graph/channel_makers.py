"""Which parameters made the channels of each tensor: the weights of products, and tables that are looked up.

Channels are made by the weight that is multiplied with, and passed on by everything that works entry by entry: scales,
norms. So ``h + h**3`` is one layer's, and ``x + layer(x)`` joins what different layers made. A gate (``sigmoid(x)``)
passes none on, and neither does what takes a shape alone (``zeros_like(x)``).
"""

from __future__ import annotations

import torch
from torch import fx

from graphprune.graph.propagate import Labeling
from graphprune.rules.registry import has_trait, is_elementwise, norm_of
from graphprune.rules.traits import Trait
from graphprune.utils.float_types import is_float_type


class ChannelMakers:
    """The makers of the channels of every tensor of a program, as the bits of a number.

    Attributes:
        weights: the parameters, and what is worked out from them alone.
    """

    def __init__(self, labeling: Labeling) -> None:
        self._labeling = labeling
        self.weights: set[fx.Node] = set()
        self._found: dict[fx.Node, int] = {}
        for node in labeling.nodes:
            if node.op == "get_attr":
                self.weights.add(node)
                self._found[node] = 1 << len(self.weights)
            else:
                self._found[node] = self._made(node) if node.op == "call_function" else 0

    def differ(self, one: fx.Node, other: fx.Node) -> bool:
        """Has each of two activations channels of a layer that made none of the other?"""
        if not self.weights.isdisjoint((one, other)):
            return False
        a, b = self._found[one], self._found[other]
        return bool(a & ~b and b & ~a)

    def _made(self, node: fx.Node) -> int:
        """The makers of the results of a call."""
        if has_trait(node.target, Trait.LIKE):
            return 0
        operands = node.all_input_nodes
        if has_trait(node.target, Trait.SCALES):
            operands = [operand for operand in operands if not has_trait(operand.target, Trait.GATES)]
        weights = [o for o in operands if o in self.weights and self._labeling.tensor(o).arrays]
        others = [o for o in operands if o not in self.weights]
        makes = bool(weights) and not _entry_by_entry(node)
        numbers = [o for o in operands if _counts(o)] if makes else []
        alone = self._chosen({*numbers, *others}) if numbers else bool(operands) and not others
        if alone:  # worked out from weights, it is one itself
            self.weights.add(node)
            return self._together(operands)
        return self._together(weights if makes else others)

    def _chosen(self, operands: set[fx.Node]) -> bool:
        """Are these the numbers of experts, whose weights are taken? Rows found by other numbers are activations."""
        return all(self._labeling.tensor(operand).indexed is not None for operand in operands)

    def _together(self, nodes: list[fx.Node]) -> int:
        found = 0
        for node in nodes:
            found |= self._found[node]
        return found


def _entry_by_entry(node: fx.Node) -> bool:
    """Does a call only scale and shift what it is given, each channel by itself?"""
    return is_elementwise(node.target, Trait.ENTRYWISE) or norm_of(node.target) is not None


def _counts(node: fx.Node) -> bool:
    """Is this a tensor of integers?"""
    dtype = node.meta.get("dtype", torch.float32)
    return not (is_float_type(dtype) or dtype is torch.bool)
