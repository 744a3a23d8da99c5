"""Tensors that a program has outside of its model: what runs write to them is undone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, fx

from graphprune.utils.operators import is_mutable, returns_view, written_arguments
from graphprune.utils.storages import TensorState


def written_bases(node: fx.Node) -> Iterator[tuple[fx.Node, fx.Node]]:
    """What a call writes to, each with the tensor of which that is a view."""
    if node.op != "call_function" or not is_mutable(node.target):
        return
    for written in written_arguments(node.target, node.args, node.kwargs):
        base = written
        while isinstance(base, fx.Node) and base.op == "call_function" and returns_view(base.target):
            base = base.args[0]
        if isinstance(base, fx.Node):
            yield written, base


def written_outside(graph: fx.Graph, constants: Mapping[str, Tensor]) -> list[Tensor]:
    """The tensors of unknown origin, among ``constants`` by name, that a traced program writes to."""
    written = {str(base.target) for node in graph.nodes for _, base in written_bases(node)}
    return [tensor for name, tensor in constants.items() if name in written]


@contextmanager
def values_kept(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Give tensors back their memory and what they hold now."""
    before = list(map(TensorState.of, tensors))
    try:
        yield
    finally:
        for state in before:
            state.put_back()
