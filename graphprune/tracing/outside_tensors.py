"""Tensors and generators that a program has outside of its model: what runs of its graph do to them is undone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
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


@contextmanager
def outside_kept(graph: fx.Graph, constants: Mapping[str, Tensor]) -> Iterator[None]:
    """Give tensors of unknown origin that a traced program writes to their memory and values back, and generators of
    random numbers that it draws from their state.

    Args:
        graph: of the program.
        constants: the tensors of unknown origin, by name.
    """
    tensors = list(map(TensorState.of, _written(graph, constants)))
    generators = [(generator, generator.get_state()) for generator in _drawn_from(graph)]
    try:
        yield
    finally:
        for before in tensors:
            before.put_back()
        for generator, state in generators:
            generator.set_state(state)


def _written(graph: fx.Graph, constants: Mapping[str, Tensor]) -> list[Tensor]:
    names = {str(base.target) for node in graph.nodes for _, base in written_bases(node)}
    return [tensor for name, tensor in constants.items() if name in names]


def _drawn_from(graph: fx.Graph) -> set[torch.Generator]:
    given = (value for node in graph.nodes for value in (*node.args, *node.kwargs.values()))
    return {value for value in given if isinstance(value, torch.Generator)}
