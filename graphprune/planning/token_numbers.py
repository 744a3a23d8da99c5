"""Token ids that a program compares or computes with: in the slim model the numbers have to be the new ids."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx

from graphprune.errors import PlanError
from graphprune.pruning.token_map import TokenMap
from graphprune.rules.registry import has_trait
from graphprune.rules.traits import Trait
from graphprune.tracing.tracer import Trace
from graphprune.utils.operators import short_name

aten = torch.ops.aten
_IS_AN_ID = ("eq", "ne", "masked_fill", "masked_fill_", "fill", "fill_")
"""Operations on ids of which a number is an id too."""
_COUNTS = ("lt", "le", "gt", "ge", "add", "sub", "rsub", "mul", "div", "remainder", "floor_divide", "bitwise_and")
"""Operations after which ids are none: the numbers that they take mean an order of tokens, or an offset."""
_COMPUTES = (Trait.ADDS, Trait.SUBTRACTS, Trait.SCALES, Trait.DIVIDES, Trait.COMPARES, Trait.STATISTIC)


def moved_from(node: fx.Node) -> set[fx.Node]:
    """A node and all that its numbers come from unchanged: not positions that are counted, nor ids with an offset."""
    found, left = {node}, [node]
    while left:
        last = left.pop()
        new = set(last.all_input_nodes) - found if _moves(last) else set()
        found |= new
        left += new
    return found


def _moves(node: fx.Node) -> bool:
    if node.op != "call_function":
        return False
    if node.target is operator.getitem:
        return True
    computes = any(has_trait(node.target, trait) for trait in _COMPUTES)
    return not computes and short_name(node.target) not in (*_COUNTS, "eq", "ne", "cumsum")


@dataclass(frozen=True)
class TokenNumbers:
    """The numbers that meet ids in a program and in its slim form."""

    dense: Trace
    slim: Trace
    tokens: TokenMap

    def check(self, inputs: frozenset[int]) -> None:
        """Raise a PlanError unless each number is that of the same token.

        Args:
            inputs: the numbers of the input tensors that are ids.
        """
        ids = self._ids({self.dense.inputs[number] for number in inputs})
        for node, other in zip(self.dense.graph.nodes, self.slim.graph.nodes, strict=False):
            if not ids.isdisjoint(node.all_input_nodes):
                for old, new in zip(_numbers(node), _numbers(other), strict=False):
                    self._compare(node, old, new)

    def _ids(self, inputs: set[fx.Node]) -> set[fx.Node]:
        """All nodes that are ids."""
        found = set(inputs)
        for node in self.dense.graph.nodes:
            if _moves(node) and not found.isdisjoint(node.all_input_nodes):
                found.add(node)
        return found

    def _compare(self, node: fx.Node, old: int, new: int) -> None:
        if short_name(node.target) in _IS_AN_ID:
            expected = self.tokens.new_id(old)
            wanted = "a token that is gone" if expected is None else f"{expected} then"
        else:
            expected, wanted = None if self.tokens.moves else new, "a number that means other tokens then"
        if new != expected:
            path, line = node.meta.get("line") or ("its forward", 0)
            raise PlanError(
                f"ids: the program has a number for a token: {short_name(node.target)} meets ids with {old}, {wanted}",
                where=f"{path}:{line}",
                found=f"the number {old}, and {new} in the slim model",
                needed="ids of tokens in the configuration, or in attributes called padding_idx or ..._token_id",
                do=f"read the number from such an attribute, or keep all ids up to {old}, so that it stays the same",
            )


def _numbers(node: fx.Node) -> Iterator[int]:
    """The whole numbers among the arguments of an operation on ids, but for sizes and dimensions."""
    named = node.op == "call_function" and node.target is not operator.getitem
    if named and short_name(node.target) in (*_IS_AN_ID, *_COUNTS):
        yield from (arg for arg in node.args if type(arg) is int)
