"""What a traced program does, call by call, in a form in which two runs of it can be compared."""

from __future__ import annotations

import operator
from collections.abc import Collection, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from graphprune.rules.registry import has_trait, rule_of
from graphprune.rules.traits import Trait
from graphprune.tracing.sizes import Line
from graphprune.tracing.tracer import Trace
from graphprune.utils.modules import within
from graphprune.utils.operators import short_name

_NUMBERS = ("number", "float", "Tensor")
_LAYOUT = (Trait.IDENTITY, Trait.DETACHES, Trait.RESHAPES, Trait.EXPANDS, Trait.MOVES)
"""What these do to a tensor depends on its strides and on dimensions of size 1, and is seen in the shapes of the next step."""


@dataclass(frozen=True)
class Step:
    """One call of an operation.

    Attributes:
        operation: its name.
        module: the path of the module that runs it.
        line: of the user's code.
        numbers: the arguments that are numbers, by name, but for sizes that follow the tensors.
        sources: where its operands come from: the number of a step, or the name of a parameter, input or constant.
        node: of the trace.
    """

    operation: str
    module: str
    line: Line | None
    numbers: tuple[tuple[str, Any], ...]
    sources: tuple[Hashable, ...]
    node: fx.Node


class StepReader:
    """Reads the steps of a trace.

    Args:
        trace: of the program.
        opaque: modules whose own program may be another one; their results are known by their path.
        without: nodes that are passed over.
        shortcuts: nodes that stand for others.
    """

    def __init__(
        self,
        trace: Trace,
        opaque: Collection[str],
        without: Collection[fx.Node] = (),
        shortcuts: Mapping[fx.Node, fx.Node] | None = None,
    ) -> None:
        self._trace = trace
        self._opaque = tuple(opaque)
        self._without = without
        self._shortcuts = shortcuts or {}
        self._constants: dict[str, int] = {}
        self._places: dict[fx.Node, Hashable] = {}

    def read(self) -> list[Step]:
        """The steps in the order of execution."""
        found: list[Step] = []
        for node in self._trace.graph.nodes:
            if node.op == "call_function" and node not in self._without:
                self._places[node] = self._place(node, len(found))
                if self._places[node] == len(found):
                    found.append(self._step(node))
        return found

    def constants(self) -> list[Tensor]:
        """The tensors of unknown origin, in the order in which steps use them."""
        return [self._trace.constants[name] for name in self._constants]

    def outputs(self) -> list[Hashable]:
        """Where the results of the model come from."""
        return [self._source(node) for node in self._trace.outputs]

    def _place(self, node: fx.Node, number: int) -> Hashable:
        """The step that a call is, or what it is known by instead."""
        module = node.meta.get("module") or ""
        if within(module, self._opaque):
            return f"module {module}"
        if node.target is operator.getitem:
            return (self._source(node.args[0]), node.args[1])
        return self._source(node.args[0]) if has_trait(node.target, *_LAYOUT) and node.args else number

    def _source(self, value: Any) -> Hashable:
        if not isinstance(value, fx.Node):
            return None
        node = self._shortcuts.get(value, value)
        if node is not value:
            return self._source(node)
        if node.op == "call_function":
            return self._places.get(node)
        if node.op == "get_attr" and "tensor" not in node.meta:
            return f"constant {self._constants.setdefault(str(node.target), len(self._constants))}"
        return str(node.meta.get("tensor", node.target))

    def _step(self, node: fx.Node) -> Step:
        operands = tuple(self._source(operand) for operand in node.all_input_nodes)
        module, line = node.meta.get("module") or "", node.meta.get("line")
        return Step(short_name(node.target), module, line, tuple(_numbers(node)), operands, node)


def _numbers(node: fx.Node) -> Iterator[tuple[str, Any]]:
    """Arguments that are numbers; integers only of operations that do not have their sizes among them."""
    op: Any = node.target
    known = rule_of(op)
    sized = known is not None and known.resize is not None
    for place, argument in enumerate(op._schema.arguments):
        value = node.args[place] if place < len(node.args) else node.kwargs.get(argument.name)
        kind = str(argument.type).removeprefix("Optional[").removesuffix("]")
        if isinstance(value, bool) or not isinstance(value, int | float | complex):
            continue
        if kind in _NUMBERS or not sized:
            yield argument.name, value


def opaque_modules(trace: Trace) -> tuple[str, ...]:
    """The modules that pruning may put one of another class in the place of."""
    return tuple(path for path, kind in trace.modules.items() if issubclass(kind, nn.MultiheadAttention))
