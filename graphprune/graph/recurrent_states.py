"""The calls of a trace that make the states of recurrent layers, of which every layer takes its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from graphprune.rules.recurrent import STATES
from graphprune.rules.registry import RuleFunction, has_trait
from graphprune.rules.traits import Trait

aten = torch.ops.aten


def rules_of_states(nodes: Sequence[fx.Node]) -> dict[fx.Node, RuleFunction]:
    """The rules of the calls that make first or last states of recurrent layers, as the trace has marked them.

    States that are learned, or made otherwise, have the rules of their operations: an entry of a parameter that stands
    for a unit of every layer goes with all of these.
    """
    made = (_maker(node) for node in nodes if node.meta.get("states"))
    return {node: STATES[node.target] for node in made if node.target in STATES and _is_floating(node)}


def _maker(node: fx.Node) -> fx.Node:
    """The call that made a tensor, which may have been copied, detached or sorted by the length of sequences since."""
    first: Any = node.args[0] if node.args else None
    op: Any = node.target
    copied = op is aten._to_copy.default or has_trait(op, Trait.IDENTITY, Trait.DETACHES)
    sorted_ = op is aten.index_select.default and node.args[1] == 1
    return _maker(first) if (copied or sorted_) and isinstance(first, fx.Node) else node


def _is_floating(node: fx.Node) -> bool:
    return bool(node.meta["dtype"].is_floating_point)
