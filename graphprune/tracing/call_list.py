"""What a program did as a plain list of calls: for one look, where nothing is rewritten and no uses are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import fx

from graphprune.utils.tree import LEAVES, PLAIN


class ListedCall:
    """One call, with the attributes of a ``torch.fx`` node that are read most."""

    __slots__ = ("args", "kwargs", "meta", "op", "target")

    def __init__(
        self, op: str, target: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> None:
        self.op = op
        self.target = target
        self.args = args
        self.kwargs = kwargs or {}
        self.meta: dict[str, Any] = {}


class CallList:
    """Calls in the order of execution, made as a ``torch.fx`` graph makes its nodes, many times as fast."""

    def __init__(self) -> None:
        self.nodes: list[ListedCall] = []

    def create_node(self, op: str, target: Any, name: str | None = None) -> ListedCall:
        """A call of any kind; its name is not kept."""
        call = ListedCall(op, target)
        self.nodes.append(call)
        return call

    def placeholder(self, name: str) -> ListedCall:
        """An input."""
        return self.create_node("placeholder", name)

    def erase_node(self, call: ListedCall) -> None:
        """Drop a call."""
        self.nodes.remove(call)


NODES = (fx.Node, ListedCall)
Node = fx.Node | ListedCall


def operands(arguments: Iterable[Any]) -> list[Node]:
    """The tensors among nested arguments."""
    found: list[Node] = []
    for value in arguments:
        if isinstance(value, NODES):
            found.append(value)
        elif type(value) in LEAVES:  # asking whether it is a mapping takes several times as long
            continue
        elif isinstance(value, tuple | list):  # of an fx graph these are of classes of its own
            if not PLAIN.issuperset(map(type, value)):
                found += operands(value)
        elif isinstance(value, Mapping):
            found += operands(value.values())
    return found
