"""Streams: tensors whose channels can be turned by one orthogonal matrix without anything else being changed.

From a tensor on, everything is followed that has the same channels: sums, factors that all channels share, what only
arranges entries. What makes a channel has to be a weight, whose outputs are turned; what reads one has to be a weight,
whose inputs are turned back, or a mean of squares, which does not notice. A factor for each channel (the scale of a
root mean square normalization) goes into the weights that read its result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import fx

from graphprune.graph.analysis import Analysis
from graphprune.graph.couplings import describe_line
from graphprune.graph.parameter_uses import parameters_only
from graphprune.planning.vocabulary import LOOKUPS
from graphprune.rules.registry import has_trait, is_elementwise, matmul_views
from graphprune.rules.traits import Trait
from graphprune.utils.ancestors import ancestors
from graphprune.utils.operators import short_name

aten = torch.ops.aten

_SUMS = (Trait.ADDS, Trait.SUBTRACTS)
_FACTORS = (Trait.SCALES, Trait.DIVIDES)
_ARRANGES = (Trait.IDENTITY, Trait.DETACHES, Trait.DROPS, Trait.MOVES, Trait.EXPANDS, Trait.PICKS)

Gains = tuple[str, ...]
"""The parameters of factors that a tensor's channels have been multiplied with, to be folded into what reads it."""


@dataclass(frozen=True)
class Held:
    """Why a stream of so many channels cannot be turned."""

    reason: str
    where: str
    width: int


@dataclass
class Stream:
    """Tensors that are turned together.

    Attributes:
        width: how many channels they have.
        nodes: the tensors, each with the factors that it has been multiplied with.
        roles: by the name of a parameter and its dimension that is turned, the factors that are folded into it.
        reads: by the tensor that is read, before factors, the parameters and dimensions that read it.
        gains: by the name of a parameter from which factors of channels are worked out, the factors.
        uses: for each of these parameters, the calls that are known to use it.
    """

    width: int
    nodes: dict[fx.Node, Gains] = field(default_factory=dict)
    roles: dict[tuple[str, int], Gains] = field(default_factory=dict)
    reads: dict[Any, list[tuple[str, int]]] = field(default_factory=dict)
    gains: dict[str, fx.Node] = field(default_factory=dict)
    uses: dict[str, set[fx.Node]] = field(default_factory=dict)


class _Stop(Exception):
    """A stream is held."""

    def __init__(self, held: Held) -> None:
        super().__init__(held.reason)
        self.held = held


def find_streams(graph: Analysis) -> tuple[list[Stream], list[Held]]:
    """The residual streams of a model that can be turned, and why the others cannot."""
    constant = parameters_only(graph.labeling.nodes)
    found: list[Stream] = []
    held: list[Held] = []
    seen: set[fx.Node] = set()
    for node in graph.labeling.nodes:
        if node not in seen and node not in constant and _joins(node, constant):
            search = _Search(node, constant, graph.trace.shapes)
            try:
                stream = search.run()
            except _Stop as stop:
                held.append(stop.held)
            else:
                found.append(stream)
            seen |= search.stream.nodes.keys()
    return found, held


def _is(node: Any, *traits: Trait) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_function" and has_trait(node.target, *traits)


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(node.meta.get("shape", ())) if isinstance(node, fx.Node) else ()


def _width(node: Any) -> int:
    """The number of channels, which lie along the last dimension; 1 of a number."""
    return _shape(node)[-1] if _shape(node) else 1


def _joins(node: fx.Node, constant: set[fx.Node]) -> bool:
    """Does it add what weights or other sums have made, as residual connections do and entrywise functions do not?"""
    widths = {_width(node), *map(_width, node.args[:2])} if _is(node, *_SUMS) else {1}
    return len(widths) == 1 and widths != {1} and all(_is_made(one, constant) for one in node.args[:2])


def _is_made(node: Any, constant: set[fx.Node]) -> bool:
    """Does a weight, a sum or the caller make the channels of a tensor, which may have been normalized?"""
    while isinstance(node, fx.Node) and node.op == "call_function":
        if _is(node, *_FACTORS):
            wide = [one for one in node.args[:2] if _width(one) == _width(node) and one not in constant]
            if len(wide) != 1:
                return False
            node = wide[0]
        elif _keeps_channels(node):
            node = node.args[0]
        else:
            return _is(node, *_SUMS) or node.target in LOOKUPS or _weight(node) is not None
    return _parameter(node) is not None or (isinstance(node, fx.Node) and node.op == "placeholder")


class _Search:
    """One stream, from one of its tensors on."""

    def __init__(self, seed: fx.Node, constant: set[fx.Node], shapes: Any) -> None:
        self.stream = Stream(_width(seed))
        self.constant = constant
        self.shapes = shapes
        self.open: list[tuple[fx.Node, Gains, Any]] = [(seed, (), seed)]

    def run(self) -> Stream:
        """Follow everything.

        Raises:
            _Stop: something holds the stream.
        """
        while self.open:
            node, gains, read = self.open.pop()
            if node in self.stream.nodes:
                if self.stream.nodes[node] != gains:
                    raise self._held(node, "has a factor for each channel, and is added to what has none")
                continue
            if _width(node) != self.stream.width:
                raise self._held(node, "has other channels")
            self.stream.nodes[node] = gains
            if not gains:
                self._made(node)
            for user in node.users:
                self._used(user, node, gains, read if gains else node)
        self._check_uses()
        return self.stream

    def _held(self, node: Any, reason: str) -> _Stop:
        line = node.meta.get("line") if isinstance(node, fx.Node) else None
        name = short_name(node.target) if node.op == "call_function" else str(node.meta.get("tensor", node.name))
        place = node.meta.get("module") or "the model"
        where = describe_line(line) if line is not None else place
        return _Stop(Held(f"{name} in {place} {reason}", where, self.stream.width))

    # ------------------------------------------------------------ what makes a tensor

    def _made(self, node: fx.Node) -> None:
        if node.op == "get_attr" and "tensor" in node.meta:
            self._turn(node, len(_shape(node)) - 1, (), node)
        elif node.op != "call_function":
            raise self._held(node, "is an input or a constant, which no weight makes")
        elif _is(node, *_SUMS):
            self._all_turned(node, node.args[:2])
        elif _is(node, *_FACTORS):
            self._factor_made(node)
        elif _keeps_channels(node):
            self._turned(node.args[0])
        elif node.target in LOOKUPS:
            self._turn(_parameter(node.args[0]), 1, (), node)
        elif (weight := _weight(node)) is not None:
            self._written(node, weight)
        else:
            raise self._held(node, "makes its channels, and is no product with a weight")

    def _turned(self, node: Any) -> None:
        self.open.append((node, (), node))

    def _all_turned(self, node: fx.Node, operands: Sequence[Any]) -> None:
        for operand in operands:
            if not isinstance(operand, fx.Node) or _width(operand) != self.stream.width:
                raise self._held(node, "adds one number to all channels")
            self._turned(operand)

    def _factor_made(self, node: fx.Node) -> None:
        x, factor = node.args[:2] if _width(node.args[0]) == self.stream.width else node.args[1::-1]
        if _width(factor) != 1:
            raise self._held(node, "multiplies each channel by another number before it is added to others")
        self._turned(x)

    def _written(self, node: fx.Node, weight: _Weight) -> None:
        self._turn(weight.owner, 1 - weight.summed, (), node)
        if weight.bias is not None:
            owner = _parameter(weight.bias)
            if _shape(owner) != (self.stream.width,):
                raise self._held(node, "adds a bias that is no parameter")
            self._turn(owner, 0, (), node)

    # ------------------------------------------------------------ what uses it

    def _used(self, user: fx.Node, node: fx.Node, gains: Gains, read: Any) -> None:
        if user.op != "call_function":
            raise self._held(node, "is a result of the model")
        if _is(user, *_FACTORS):
            self._scaled(user, node, gains, read)
        elif _is(user, *_SUMS) and not gains:
            self.open.append((user, (), user))
        elif _keeps_channels(user):
            self.open.append((user, gains, read if gains else user))
        elif (weight := _weight(user)) is not None and weight.x is node:
            self._turn(weight.owner, weight.summed, gains, user)
            self.stream.reads.setdefault(read, []).append((str(weight.owner.meta["tensor"]), weight.summed))
        elif gains or not _is_statistic_of(user, node):
            raise self._held(user, "reads its channels one by one")

    def _scaled(self, user: fx.Node, node: fx.Node, gains: Gains, read: Any) -> None:
        factors = [operand for operand in user.args[:2] if operand is not node]
        if not factors:
            if gains or not _is_squares(user):
                raise self._held(user, "reads its channels one by one")
        elif _width(factors[0]) == 1 and (user.args[0] is node or _is(user, Trait.SCALES)):
            self.open.append((user, gains, read if gains else user))
        elif self._is_gain(user, factors[0]):
            self.open.append((user, (*gains, self._folded(factors[0], user)), read))
        else:
            raise self._held(user, "multiplies each channel by another number")

    def _is_gain(self, user: fx.Node, factor: Any) -> bool:
        """Is it a factor for each channel that parameters alone make?"""
        constant = isinstance(factor, fx.Node) and factor in self.constant
        return constant and _is(user, Trait.SCALES) and _shape(factor) == (self.stream.width,)

    def _folded(self, factor: Any, user: fx.Node) -> str:
        """Note a factor of channels; returns its parameter."""
        owners = [n for n in ancestors([factor]) if n.op == "get_attr" and "tensor" in n.meta]
        if len(owners) != 1:
            raise self._held(factor, "is a factor that several parameters make")
        name = str(owners[0].meta["tensor"])
        self.stream.gains[name] = factor
        self._note_use(owners[0], user)
        return name

    def _turn(self, owner: Any, dim: int, gains: Gains, user: fx.Node) -> None:
        """Note that a dimension of a parameter is turned."""
        if not isinstance(owner, fx.Node) or owner.op != "get_attr" or "tensor" not in owner.meta:
            raise self._held(user, "is made with what is no parameter")
        key = str(owner.meta["tensor"]), dim
        if self.stream.roles.setdefault(key, gains) != gains:
            raise self._held(owner, f"is used for {_TIED}")
        self._note_use(owner, user)

    def _note_use(self, owner: fx.Node, user: fx.Node) -> None:
        self.stream.uses.setdefault(str(owner.meta["tensor"]), set()).add(user)

    def _check_uses(self) -> None:
        """Raise a _Stop if a parameter is used for something else too."""
        graph = next(iter(self.stream.nodes)).graph
        for node in graph.nodes:
            name = str(node.meta.get("tensor")) if node.op == "get_attr" else ""
            known = self.stream.uses.get(name)
            if known is not None and not _users(node) <= known | self.stream.nodes.keys():
                raise self._held(node, f"is used for {_TIED}")


_TIED = "two things that would need other values of it, such as an embedding that is the head: give each its own"


def _users(owner: fx.Node) -> set[fx.Node]:
    """The calls that use a parameter, through what only arranges its entries or works out factors of it."""
    found: set[fx.Node] = set()
    stack = list(owner.users)
    while stack:
        user = stack.pop()
        alone = user.op == "call_function" and len(user.all_input_nodes) == 1 and _weight(user) is None
        if alone and user.target not in LOOKUPS and user.users:
            stack += user.users
        else:
            found.add(user)
    return found


def _keeps_channels(node: fx.Node) -> bool:
    """Does a call only arrange entries, each with all of its channels?"""
    arranges = _is(node, *_ARRANGES) or node.target is aten._to_copy.default
    return arranges and isinstance(node.args[0], fx.Node) and _width(node) == _width(node.args[0])


def _is_statistic_of(user: fx.Node, node: fx.Node) -> bool:
    """Is it one number of all channels, such as their norm, or of their squares?"""
    if _is(user, Trait.STATISTIC):
        return _shape(user) in (_shape(node)[:-1], (*_shape(node)[:-1], 1))
    return user.op == "call_function" and is_elementwise(user.target) and _is_squares(user)


def _is_squares(node: fx.Node) -> bool:
    """Is an entrywise function only used for one number of all channels? That it is the square, outputs show."""
    alone = len(node.all_input_nodes) == 1 and bool(node.users)
    return alone and all(_is(user, Trait.STATISTIC) and _is_statistic_of(user, node) for user in node.users)


def _parameter(node: Any) -> fx.Node | None:
    """The parameter that an argument is, as it is."""
    while isinstance(node, fx.Node) and (_is(node, Trait.IDENTITY) or node.target is aten._to_copy.default):
        node = node.args[0]
    is_parameter = isinstance(node, fx.Node) and node.op == "get_attr" and "tensor" in node.meta
    return node if is_parameter else None


class _Weight(NamedTuple):
    """The parameter of a matrix product, its dimension that is summed over, the rows, and the bias."""

    owner: fx.Node
    summed: int
    x: Any
    bias: Any


def _weight(node: fx.Node) -> _Weight | None:
    """The weight of a matrix product of rows with a parameter of two dimensions, if it is one."""
    for view in matmul_views(node.target) if node.op == "call_function" else ():
        weight, dim = node.args[view.weight], 0
        while (
            isinstance(weight, fx.Node) and len(_shape(weight)) == 2 and _is(weight, Trait.TRANSPOSES, Trait.IDENTITY)
        ):
            dim = 1 - dim if _is(weight, Trait.TRANSPOSES) else dim
            weight = weight.args[0]
        owner = _parameter(weight)
        if view.kernel is None and view.summed == -1 and owner is not None and len(_shape(owner)) == 2:
            return _Weight(owner, dim, node.args[view.x], node.args[view.bias] if view.intercept(node.args) else None)  # type: ignore[index]
    return None
