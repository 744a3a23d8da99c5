"""Residual blocks: whole layers that can be left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import fx, nn

from graphprune.rules.registry import has_trait
from graphprune.rules.traits import Trait
from graphprune.tracing.tracer import Trace


@dataclass(frozen=True, eq=False)
class Block:
    """A module whose result is its input plus something: without it, the network is one layer shorter.

    Attributes:
        path: its name in the model.
        source, result: the nodes that go in and come out.
        nodes: everything that runs in it.
    """

    path: str
    source: fx.Node
    result: fx.Node
    nodes: frozenset[fx.Node] = field(repr=False)


def find_blocks(trace: Trace, model: nn.Module) -> tuple[Block, ...]:
    """The blocks that can be left out, innermost ones, in the order of execution.

    A block is called once, gives back what it was given plus something (through sums and elementwise functions), and
    nothing but its result is used outside.
    """
    nodes = list(trace.graph.nodes)[: trace.evaluated]
    times = Counter(call.path for call in trace.calls)
    owners = {path for path, module in model.named_modules() if any(True for _ in module.parameters())}
    found = [
        Block(call.path, call.source, call.result, frozenset(nodes[call.start : call.stop]))
        for call in trace.calls
        if call.path in owners and times[call.path] == 1 and call.stop <= trace.evaluated
    ]
    found = [block for block in found if _closed(block) and _residual(block)]
    inner = [b for b in found if not any(o.path.startswith(f"{b.path}.") for o in found)]
    return tuple(b for b in inner if b.path)


def _closed(block: Block) -> bool:
    """Is nothing from within used outside, but the result?"""
    if block.source.meta.get("shape") != block.result.meta.get("shape") or block.result not in block.nodes:
        return False
    return all(user in block.nodes for node in block.nodes if node is not block.result for user in node.users)


def _residual(block: Block) -> bool:
    """Does the input reach the result through sums and elementwise functions of one tensor, one sum at least?"""
    stack, seen = [(block.result, False)], set[tuple[fx.Node, bool]]()
    while stack:
        node, summed = stack.pop()
        if node is block.source:
            if summed:
                return True
            continue
        if (node, summed) in seen or node not in block.nodes:
            continue
        seen.add((node, summed))
        stack.extend((given, summed or has_trait(node.target, Trait.ADDS)) for given in _passed(node))
    return False


def _passed(node: fx.Node) -> list[fx.Node]:
    """The arguments that a node passes on, more or less as they are."""
    given = [a for a in node.args if isinstance(a, fx.Node)]
    if node.op != "call_function":
        return []
    elementwise = torch.Tag.pointwise in getattr(node.target, "tags", ()) and len(given) == 1
    passed = has_trait(node.target, Trait.ADDS, Trait.IDENTITY, Trait.DROPS)
    return given if passed or elementwise else []
