"""Token ids that a program compares or computes with: in the slim model the numbers have to be the new ids."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import torch
from torch import fx

from graphprune.errors import PlanError
from graphprune.pruning.token_map import TokenMap
from graphprune.rules.registry import has_trait
from graphprune.rules.traits import Trait
from graphprune.tracing.tracer import Trace
from graphprune.utils.ancestors import ancestors
from graphprune.utils.operators import short_name

aten = torch.ops.aten
_IS_AN_ID = ("eq", "ne", "masked_fill", "masked_fill_", "fill", "fill_")
"""Operations on ids of which a number is an id too."""
_COUNTS = ("lt", "le", "gt", "ge", "add", "sub", "rsub", "mul", "div", "remainder", "floor_divide", "bitwise_and")
"""Operations after which ids are none: the numbers that they take mean an order of tokens, or an offset."""
_COMPUTES = (Trait.ADDS, Trait.SUBTRACTS, Trait.SCALES, Trait.DIVIDES, Trait.COMPARES, Trait.STATISTIC)


def moved_from(node: fx.Node) -> set[fx.Node]:
    """A node and all that its numbers come from unchanged: not positions that are counted, nor ids with an offset."""
    return set(ancestors([node], lambda one: one.all_input_nodes if _moves(one) else []))


def _moves(node: fx.Node) -> bool:
    if node.op != "call_function":
        return False
    if node.target is operator.getitem:
        return True
    computes = any(has_trait(node.target, trait) for trait in _COMPUTES)
    name = short_name(node.target)
    return not (computes or name.endswith("_like") or name in (*_COUNTS, "eq", "ne", "cumsum"))


@dataclass(frozen=True)
class TokenNumbers:
    """The numbers that meet ids in a program and in its slim form."""

    dense: Trace
    slim: Trace
    tokens: TokenMap

    def check(self, inputs: frozenset[int], tables: Collection[str]) -> None:
        """Raise a PlanError unless each number is that of the same token.

        Args:
            inputs: the numbers of the input tensors that are ids.
            tables: the names of the vocabulary's tables.
        """
        ids = self._ids({self.dense.inputs[number] for number in inputs})
        for node, other in zip(self.dense.graph.nodes, self.slim.graph.nodes, strict=False):
            if node.op == "call_function" and not ids.isdisjoint(node.all_input_nodes):
                self._check_lookup(node, ids, tables)
                for old, new in zip(_numbers(node), _numbers(other), strict=False):
                    self._compare(node, old, new)

    def _ids(self, inputs: set[fx.Node]) -> set[fx.Node]:
        """All nodes that are ids."""
        found = set(inputs)
        for node in self.dense.graph.nodes:
            whole = node.meta.get("dtype") not in (None, torch.bool) and not node.meta["dtype"].is_floating_point
            if (
                (whole or node.target is operator.getitem)
                and _moves(node)
                and not found.isdisjoint(node.all_input_nodes)
            ):
                found.add(node)
        return found

    def _check_lookup(self, node: fx.Node, ids: set[fx.Node], tables: Collection[str]) -> None:
        """Raise a PlanError if ids are numbers of something else than the vocabulary's words."""
        first, *others = node.all_input_nodes
        dtype = node.meta.get("dtype")
        looks_up = node.target is aten.take.default or has_trait(node.target, Trait.LOOKS_UP, Trait.SCATTERS)
        looked_up = looks_up and not ids.isdisjoint(others)
        floats = dtype is not None and dtype.is_floating_point
        if (looked_up or floats) and first.meta.get("tensor") not in tables:
            path, line = node.meta.get("line") or ("its forward", 0)
            name, table = short_name(node.target), next(iter(tables))
            raise PlanError(
                f"ids: {name} uses ids of tokens for something else than rows of {table}",
                where=f"{path}:{line}",
                found=f"{name} of ids",
                needed="ids that look up rows of the vocabulary's embeddings alone",
                do="cut what else ids look up by hand, or keep the whole vocabulary",
            )

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
