"""Residual blocks: whole layers that can be left out."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import fx, nn

from graphprune.rules.registry import has_trait, is_elementwise, rule_of
from graphprune.rules.traits import Trait
from graphprune.tracing.recorder import ModuleCall
from graphprune.tracing.tracer import Trace
from graphprune.utils.checks import with_article


@dataclass(frozen=True, eq=False)
class Block:
    """A module whose result is its input plus something: without it, the network is one layer shorter.

    Attributes:
        path: its name in the model.
        source, result: the nodes that go in and come out.
        nodes: everything that runs in it.
        results: how many results it returns in a tuple, of which nobody reads more than the first; 0: a tensor alone.
    """

    path: str
    source: fx.Node
    result: fx.Node
    nodes: frozenset[fx.Node] = field(repr=False)
    results: int = 0


def find_blocks(trace: Trace, model: nn.Module) -> tuple[Block, ...]:
    """The blocks that can be left out, in the order of execution.

    A block is called once, gives back what it was given plus something (through sums, normalizations, elementwise
    functions and reshapes), and nothing but its result is used outside. It may return that as the first of a tuple,
    where the others are None and tensors that it makes for nobody, such as weights of attention. Of blocks within each
    other the innermost ones are taken; the outer one where it goes on with sums of its own, as layers do whose
    attention is a block with its own sum.
    """
    single, trained = called_once(trace, model), in_training(trace)
    calls = [call for call in trace.calls if not call.by_name and call.path in single]
    found = [b for call, b in _residual(trace, calls) if _is_closed(b, trained) and not _handed_on(call, b)]
    return tuple(block for block in _separate(found) if block.path)


def hindrance(trace: Trace, model: nn.Module) -> tuple[str, str] | None:
    """The first module that gives its input plus something and is yet no block: its path, and why; None: none does."""
    times = Counter(call.path for call in trace.calls)
    owners = {path for path, module in model.named_modules() if path and any(True for _ in module.parameters())}
    for call, block in _residual(trace, [call for call in trace.calls if call.path in owners]):
        if times[call.path] > 1:
            return call.path, f"runs {times[call.path]} times"
        if call.by_name:
            return call.path, "is given its input as a keyword argument"
        return call.path, _handed_on(call, block) or _read_outside(call, block, in_training(trace))
    return None


def _handed_on(call: ModuleCall, block: Block) -> str:
    """What a call returns besides its result that it does not make itself, or that is no tensor; empty: nothing."""
    for other in call.others:
        if isinstance(other, str):
            return f"returns {with_article(other)} besides its result, which others may read"
        if other is block.result:
            return "returns its result twice"
        if other is not None and other not in block.nodes:
            return "hands on a tensor that it does not make, besides its result"
    return ""


def _read_outside(call: ModuleCall, block: Block, trained: frozenset[fx.Node]) -> str:
    """What of a block is used outside, which is not closed."""
    others = [other for other in call.others if isinstance(other, fx.Node)]
    if all(is_read_within(other, block.nodes, trained) for other in others):
        return "has more of what is within it used outside"
    return "returns a tuple of which more than the first tensor is used outside"


def _residual(trace: Trace, calls: Iterable[ModuleCall]) -> Iterator[tuple[ModuleCall, Block]]:
    """Those of the calls that give their input plus something, as blocks."""
    nodes = trace.evaluated_nodes
    for call in calls:
        inside = frozenset(nodes[call.start : call.stop])
        block = Block(call.path, call.source, call.result, inside, call.results)
        same = block.source.meta.get("shape") == block.result.meta.get("shape") and block.result in block.nodes
        if same and any(way.sums for way in _ways(block, ())):
            yield call, block


def called_once(trace: Trace, model: nn.Module) -> set[str]:
    """The paths of the modules that have parameters and run once."""
    times = Counter(call.path for call in trace.calls)
    owners = (path for path, module in model.named_modules() if any(True for _ in module.parameters()))
    return {path for path in owners if times[path] == 1}


def in_training(trace: Trace) -> frozenset[fx.Node]:
    """The calls of training mode. Of what evaluation made they use the parameters alone."""
    return frozenset(node for node in list(trace.graph.nodes)[trace.evaluated :] if node.op != "output")


def is_read_within(node: fx.Node, inside: Collection[fx.Node], trained: Collection[fx.Node]) -> bool:
    """Is a tensor used by these nodes alone? ``trained``: the calls of training mode, which do not count."""
    return all(user in inside or user in trained for user in node.users)


def _is_closed(block: Block, trained: frozenset[fx.Node]) -> bool:
    """Is nothing from within used outside, but the result?"""
    return all(is_read_within(node, block.nodes, trained) for node in block.nodes if node is not block.result)


def _separate(found: list[Block]) -> list[Block]:
    """Those of the blocks that are not within each other."""
    chosen: list[Block] = []
    for block in sorted(found, key=lambda block: len(block.nodes)):  # inner ones first; at equal size the inner path
        inner = [other for other in chosen if other.path.startswith(f"{block.path}.") or not block.path]
        if not inner:
            chosen.append(block)
        elif _goes_on(block, inner):
            chosen = [other for other in chosen if other not in inner] + [block]
    return [block for block in found if block in chosen]


def _goes_on(block: Block, inner: Sequence[Block]) -> bool:
    """Does the stream go through blocks within, and then through sums of its own, at least as many?

    Then it is one layer of several sums. Where sums of its own bridge the blocks within, or come after many of them, it
    is a body of layers.
    """
    ways = [way for way in _ways(block, inner) if way.sums]
    return bool(ways) and all(0 < way.blocks <= way.sums for way in ways)


class _Way(NamedTuple):
    """A way of the stream through a block, from its result back: where it is, and what it passed.

    Attributes:
        node: where it is.
        sums: how many sums it passed.
        blocks: how many blocks within.
    """

    node: fx.Node
    sums: int = 0
    blocks: int = 0


def _ways(block: Block, inner: Sequence[Block]) -> list[_Way]:
    """The ways through sums, normalizations, reshapes and elementwise functions of one tensor that reach the input.

    Reshapes keep the order of entries, so that those of a block, whose result has the shape of its input, undo one
    another.
    """
    bridges = {one.result: one.source for one in inner}
    stack, seen, found = [_Way(block.result)], set[_Way](), []
    while stack:
        way = stack.pop()
        if way.node is block.source:
            found.append(way)
        elif way not in seen and way.node in block.nodes:
            seen.add(way)
            if way.node in bridges:
                stack.append(_Way(bridges[way.node], way.sums, way.blocks + 1))
            else:
                sums = way.sums + has_trait(way.node.target, Trait.ADDS)
                stack.extend(_Way(given, sums, way.blocks) for given in passed_on(way.node))
    return found


def passed_on(node: fx.Node) -> list[fx.Node]:
    """The arguments that a node passes on, more or less as they are."""
    given = [a for a in node.args if isinstance(a, fx.Node)]
    if node.op != "call_function":
        return []
    if node.target is operator.getitem or is_normalization(node):
        return given[:1]
    elementwise = is_elementwise(node.target) and len(given) == 1
    passed = has_trait(node.target, Trait.ADDS, Trait.IDENTITY, Trait.DROPS, Trait.RESHAPES)
    return given if passed or elementwise else []


def is_normalization(node: fx.Node) -> bool:
    """Does a call normalize its first argument?"""
    rule = rule_of(node.target)
    return rule is not None and rule.norm is not None
