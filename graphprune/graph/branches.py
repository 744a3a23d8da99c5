"""Residual branches: what is added to a stream, and can be left out without the layer that it is a part of.

The stream may be normalized after the sum (post-norm) or within the branch (pre-norm). What a branch is follows from
the operations alone: modules that the stream leads through to a sum with that same stream, and of which nothing is read
elsewhere. Without the branch, zeros are added.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from torch import fx, nn

from graphprune.graph.blocks import called_once, in_training, is_read_within
from graphprune.graph.dimensions import Dimensions
from graphprune.rules.registry import has_trait, is_elementwise
from graphprune.rules.traits import Trait
from graphprune.rules.zeros import is_pointwise, keeps_zeros, zero_at_zero
from graphprune.tracing.recorder import ModuleCall
from graphprune.tracing.tracer import Trace
from graphprune.utils.ancestors import ancestors
from graphprune.utils.float_types import is_float_type


@dataclass(frozen=True, eq=False)
class Branch:
    """Modules of which the last one gives what is added to a stream.

    Attributes:
        modules: by path, in the order of execution, how many results each has in a tuple (0: a tensor alone). Zeros
            stand in their places where the branch is left out.
        total: the sum.
        idle: operations between these modules, which then work on zeros.
    """

    modules: Mapping[str, int]
    total: fx.Node = field(repr=False)
    idle: frozenset[fx.Node] = field(repr=False)

    @property
    def path(self) -> str:
        """The module whose result is added, by which the branch is known."""
        return list(self.modules)[-1]


def find_branches(trace: Trace, model: nn.Module, dimensions: Dimensions) -> tuple[Branch, ...]:
    """The residual branches whose modules are called once, in the order of execution."""
    found = _Finder(trace, model, dimensions).branches()
    return tuple({branch.path: branch for branch in found}.values())


class _Finder:
    """Finds what is added to a stream that it comes from."""

    def __init__(self, trace: Trace, model: nn.Module, dimensions: Dimensions) -> None:
        self.dimensions = dimensions
        self.nodes = trace.evaluated_nodes
        self.index = {node: i for i, node in enumerate(self.nodes)}
        self.outputs = frozenset(trace.outputs)
        self.trained = in_training(trace)
        single = called_once(trace, model)
        self.calls: dict[fx.Node, list[ModuleCall]] = {}
        kinds = trace.modules
        for call in trace.calls:  # a module comes after those within it
            runs = call.path in single and call.start < call.stop
            if call.path and runs and not _reads_parts(kinds.get(call.path.rpartition(".")[0])):
                self.calls.setdefault(call.result, []).insert(0, call)

    def branches(self) -> Iterator[Branch]:
        """For every sum, the terms that come from another one."""
        for node in self.nodes:
            if has_trait(node.target, Trait.ADDS) and not self._is_term(node):
                sums, terms = self._terms(node)
                pairs = ((stream, end) for end in terms for stream in terms if stream is not end)
                found = (_Walk(self, node, stream, set(sums)).branch(end) for stream, end in pairs)
                yield from (branch for branch in found if branch is not None)

    def _is_term(self, node: fx.Node) -> bool:
        """Is a sum only a part of another sum?"""
        users = list(node.users)
        return len(users) == 1 and has_trait(users[0].target, Trait.ADDS) and node not in self.outputs

    def _terms(self, total: fx.Node) -> tuple[list[fx.Node], list[fx.Node]]:
        """The sums that a sum consists of, and what they add up."""
        sums, terms = [total], list[fx.Node]()
        for node in sums:
            for given in (a for a in node.args[:2] if isinstance(a, fx.Node)):
                part = has_trait(given.target, Trait.ADDS) and self._is_term(given)
                (sums if part else terms).append(given)
        return sums, [term for term in terms if term in self.index]

    def module(self, result: fx.Node, after: fx.Node, before: fx.Node) -> ModuleCall | None:
        """The outermost call with this result that runs wholly after and before some nodes."""
        first, last = self.index[after], self.index[before]
        calls = self.calls.get(result, ())
        inside = (c for c in calls if c.start > first and c.stop <= last and self.index.get(c.source, last) < c.start)
        return next((c for c in inside if c.start <= self.index[result] < c.stop), None)

    def within(self, call: ModuleCall) -> list[fx.Node]:
        """What runs in a module."""
        return self.nodes[call.start : call.stop]

    def comes_from(self, node: fx.Node, source: fx.Node) -> bool:
        """Does a tensor depend on another one?"""
        first = self.index[source]

        def later(one: fx.Node) -> list[fx.Node]:
            return one.all_input_nodes if self.index.get(one, -1) > first else []

        return source in ancestors([node], later)


class _Walk:
    """From one term of a sum back to the stream.

    Args:
        finder: knows the program.
        total: the sum.
        stream: another term of it.
        inside: the nodes that may read what the branch makes.
    """

    def __init__(self, finder: _Finder, total: fx.Node, stream: fx.Node, inside: set[fx.Node]) -> None:
        self.finder, self.total, self.stream, self.inside = finder, total, stream, inside
        self.steps: list[ModuleCall | fx.Node] = []

    def branch(self, end: fx.Node) -> Branch | None:
        """The branch that ends in this term; None: there is none, or something of it is read elsewhere."""
        last = self._last_module(end)
        if last is None:
            return None
        start = self._back_from(last)
        if not self.finder.comes_from(start, self.stream) or not self._zeros_fit(start, last):
            return None
        calls = [step for step in reversed(self.steps) if isinstance(step, ModuleCall)]
        idle = frozenset(step for step in self.steps if isinstance(step, fx.Node))
        return Branch({call.path: call.results for call in calls}, self.total, idle)

    def _last_module(self, node: fx.Node) -> ModuleCall | None:
        """The module whose result is added, perhaps after operations that make zeros of zeros."""
        while self._is_after_stream(node) and self._is_read_inside(node):
            call = self.finder.module(node, self.stream, self.total)
            if call is not None:
                return call if self._take(call) else None
            given = _computed(node)
            if len(given) != 1 or not _keeps_zeros(node, given[0]):
                return None
            self.inside.add(node)
            (node,) = given
        return None

    def _back_from(self, last: ModuleCall) -> fx.Node:
        """Take what leads to a module and nowhere else; returns what comes before."""
        node = last.source
        while self._is_after_stream(node) and self._is_read_inside(node):
            call, given = self.finder.module(node, self.stream, self.total), _computed(node)
            if call is not None and self._take(call):
                node = call.source
            elif len(given) == 1 and node.op == "call_function":
                self.inside.add(node)
                self.steps.append(node)
                (node,) = given
            else:
                break
        return node

    def _take(self, call: ModuleCall) -> bool:
        """Is a module a part of the branch, because nothing within it is read elsewhere?"""
        nodes = self.finder.within(call)
        inside = {*self.inside, *nodes}
        if not all(self._is_read_in(node, inside) for node in nodes):
            return False
        self.inside = inside
        self.steps.append(call)
        return True

    def _is_after_stream(self, node: fx.Node) -> bool:
        return self.finder.index.get(node, -1) > self.finder.index[self.stream]

    def _is_read_inside(self, node: fx.Node) -> bool:
        return self._is_read_in(node, self.inside)

    def _is_read_in(self, node: fx.Node, inside: set[fx.Node]) -> bool:
        return node not in self.finder.outputs and is_read_within(node, inside, self.finder.trained)

    def _zeros_fit(self, start: fx.Node, last: ModuleCall) -> bool:
        """Have the zeros in the place of the last module its result's shape, if each module gives its input's?"""
        zeros = start
        for step in reversed(self.steps):
            if isinstance(step, fx.Node) and not _is_elementwise(step):
                if not self.finder.dimensions.are_the_same(_computed(step)[0], zeros):
                    return False
                zeros = step
        same_type = start.meta.get("dtype") == last.result.meta.get("dtype")
        return same_type and self.finder.dimensions.are_the_same(zeros, last.result)


def _reads_parts(owner: type | None) -> bool:
    """Does a module read the weights of those within it, in a fast path that a trace does not show?"""
    return owner is not None and issubclass(owner, nn.TransformerEncoderLayer)


def _computed(node: fx.Node) -> list[fx.Node]:
    """The operands that are no parameters, buffers and constants."""
    return [given for given in node.all_input_nodes if given.op != "get_attr"]


def _keeps_zeros(node: fx.Node, given: fx.Node) -> bool:
    """Does a call make zeros of an operand of zeros, whatever the others are?"""
    operands: list[fx.Node] = []
    fx.node.map_arg((node.args, node.kwargs), operands.append)
    if is_pointwise(node.target):
        return zero_at_zero(node, [operand is given for operand in operands])
    if not keeps_zeros(node.target):
        return False
    filled = any(isinstance(value, float) and value for value in (*node.args, *node.kwargs.values()))
    return not filled and not any(is_float_type(one.meta["dtype"]) for one in operands if one is not given)


def _is_elementwise(node: fx.Node) -> bool:
    return is_elementwise(node.target, Trait.DROPS, Trait.IDENTITY)
