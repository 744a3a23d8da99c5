"""What a traced program does, call by call, in a form in which two runs of it can be compared."""

from __future__ import annotations

import operator
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, fx

from graphprune.rules.registry import has_trait, rule_of
from graphprune.rules.traits import Trait
from graphprune.tracing.call_list import NODES, Node, operands
from graphprune.tracing.opaque import is_opaque
from graphprune.tracing.running import Replay
from graphprune.tracing.sizes import Line
from graphprune.utils.operators import short_name

aten = torch.ops.aten

_NUMBERS = ("number", "float", "Tensor")
_NUMBER_TYPES = (int, float, complex)
_SIZES = ("int", "SymInt", "Optional[int")
_NO_SIZES = ("dim", "end", "step")
_LAYOUT = (Trait.IDENTITY, Trait.DETACHES, Trait.RESHAPES, Trait.EXPANDS, Trait.MOVES)
"""What these do depends on strides and on dimensions of size 1 too. The shapes of the next step show what matters."""


@dataclass(slots=True, eq=False)  # frozen, it would take four times as long to make
class Step:
    """One call of an operation.

    Attributes:
        operation: its name.
        module: the path of the module that runs it.
        line: of the user's code.
        numbers: the arguments that are numbers, by name, but for sizes that follow the tensors.
        sizes: those that are one size, count or place each, by position.
        sources: where its operands come from: the number of a step, or the name of a parameter, input or constant.
        node: of the trace or replay.
    """

    operation: str
    module: str
    line: Line | None
    numbers: tuple[tuple[str, Any], ...]
    sizes: tuple[tuple[int, int], ...]
    sources: tuple[Hashable, ...]
    node: Node


class StepReader:
    """Reads the steps of a trace or replay.

    Args:
        run: what the program did.
        opaque: modules whose own program may be another one; their results are known by their path.
        without: nodes that are passed over.
        shortcuts: nodes that stand for others.
    """

    def __init__(
        self,
        run: Replay,
        opaque: Collection[str],
        without: Collection[Node] = (),
        shortcuts: Mapping[Node, fx.Node] | None = None,
    ) -> None:
        self._run = run
        self._opaque = tuple(opaque)
        self._without = without
        self._shortcuts = shortcuts or {}
        self._constants: dict[str, int] = {}
        self._places: dict[Node, Hashable] = {}

    def read(self) -> list[Step]:
        """The steps in the order of execution."""
        found: list[Step] = []
        for node in self._run.calls:
            if node.op == "call_function" and node not in self._without:
                signature = _NONE if node.target is operator.getitem else _signature_of(node.target)
                place = self._places[node] = self._place(node, signature, len(found))
                if place == len(found):
                    found.append(self._step(node, signature))
        return found

    def constants(self) -> list[Tensor]:
        """The tensors of unknown origin, in the order in which steps use them."""
        return [self._run.constants[name] for name in self._constants]

    def sources(self, nodes: Iterable[Node]) -> list[Hashable]:
        """Where tensors come from."""
        return [self._source(node) for node in nodes]

    def _place(self, node: Node, signature: _Signature, number: int) -> Hashable:
        """The step that a call is, or what it is known by instead."""
        module = node.meta.get("module") or ""
        for path in self._opaque:
            if f"{module}.".startswith(f"{path}." if path else ""):
                return f"module {path}"
        if node.target is operator.getitem:
            return (self._source(node.args[0]), node.args[1])
        arranges = signature.arranges or node.target is aten._to_copy.default
        return self._source(node.args[0]) if arranges and node.args and _keeps_entries(node, signature) else number

    def _source(self, value: Any) -> Hashable:
        if not isinstance(value, NODES):
            return None
        node: Node = value
        if node in self._shortcuts:
            return self._source(self._shortcuts[node])
        if node.op == "call_function":
            return self._places.get(node)
        if node.op == "get_attr" and "tensor" not in node.meta:
            return f"constant {self._constants.setdefault(str(node.target), len(self._constants))}"
        return str(node.meta.get("tensor", node.target))

    def _step(self, node: Node, signature: _Signature) -> Step:
        sources = tuple([self._source(operand) for operand in operands((*node.args, *node.kwargs.values()))])
        module, line = node.meta.get("module") or "", node.meta.get("line")
        numbers, sizes = _numbers(node, signature), _sizes(node, signature)
        return Step(signature.name, module, line, numbers, sizes, sources, node)


@dataclass(frozen=True, slots=True)
class _Signature:
    """What is known of the calls of an operator.

    Attributes:
        name: of the operator.
        arranges: it only arranges entries.
        numbers: places, names and defaults of arguments that may be numbers; integers only of operations without sizes
            among them. Calls leave out what is the default.
        sizes: places of arguments that are one size, count or place each. Where a slice ends, its result shows.
    """

    name: str
    arranges: bool
    numbers: tuple[tuple[int, str, Any], ...]
    sizes: tuple[int, ...]


@lru_cache(maxsize=4096)
def _signature_of(op: Any) -> _Signature:
    known = rule_of(op)
    sized = known is not None and known.resize is not None
    arguments = [] if is_opaque(op) else list(enumerate(op._schema.arguments))
    numbers = tuple((i, a.name, a.default_value) for i, a in arguments if not sized or _takes_number(a.type))
    sizes = tuple(i for i, a in arguments if sized and str(a.type).startswith(_SIZES) and a.name not in _NO_SIZES)
    return _Signature(short_name(op), has_trait(op, *_LAYOUT), numbers, sizes)


_NONE = _Signature("", False, (), ())


def _keeps_entries(node: Node, signature: _Signature) -> bool:
    """Does a call only arrange entries, or copy them to where a device is asked for (which is another on ``meta``)?"""
    if node.target is not aten._to_copy.default:
        return signature.arranges
    source = node.args[0]
    return isinstance(source, Node) and source.meta.get("dtype") == node.meta.get("dtype")


def _numbers(node: Node, signature: _Signature) -> tuple[tuple[str, Any], ...]:
    found = []
    args, kwargs = node.args, node.kwargs
    for place, name, default in signature.numbers:
        value = args[place] if place < len(args) else kwargs.get(name, default)
        if isinstance(value, _NUMBER_TYPES):
            found.append((name, value))
    return tuple(found)


def _sizes(node: Node, signature: _Signature) -> tuple[tuple[int, int], ...]:
    if not signature.sizes:
        return ()
    args = node.args
    given = [(place, args[place]) for place in signature.sizes if place < len(args)]
    return tuple([(place, value) for place, value in given if isinstance(value, int)])


def _takes_number(kind: Any) -> bool:
    return str(kind).removeprefix("Optional[").removesuffix("]") in _NUMBERS
