"""What nodes of a graph are computed from."""

import torch
from torch import Tensor, fx

from graphprune.utils.ancestors import ancestors


def program(x: Tensor, y: Tensor) -> Tensor:
    z = x * y
    return (z + torch.relu(z)) * z


def names(nodes: list[fx.Node]) -> list[str]:
    return [node.name for node in nodes]


def test_each_is_found_once() -> None:
    *_, last, _ = fx.symbolic_trace(program).graph.nodes
    found = names(list(ancestors([last])))
    assert found[0] == last.name
    assert sorted(found) == ["add", "mul", "mul_1", "relu", "x", "y"]


def test_operands_may_be_left_out() -> None:
    graph = fx.symbolic_trace(program).graph
    *_, last, _ = graph.nodes
    found = ancestors([last], lambda node: [] if node.name == "mul" else node.all_input_nodes)
    assert sorted(names(list(found))) == ["add", "mul", "mul_1", "relu"]


def test_no_further_operands_are_asked_for_than_are_needed() -> None:
    asked: list[int] = []

    def smaller(number: int) -> list[int]:
        asked.append(number)
        return [number - 1]

    assert 3 in ancestors([5], smaller)
    assert asked == [5, 4]
