"""Diagrams show what the graph and the plan say."""

import re
from pathlib import Path

import torch
from torch import nn

import graphprune
from benchmarks import diagrams


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.enter, self.one = nn.Linear(3, 8), nn.Linear(8, 4)
        self.two, self.leave = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.enter(x)
        return self.leave(x + self.two(self.one(x).relu()))


def test_strips_and_gray_are_those_of_the_graph_and_the_plan() -> None:
    graph = graphprune.trace(Residual(), torch.randn(2, 3))
    plan = graph.plan(0.5)
    columns = diagrams.matrices(graph, [["enter"], ["one"], ["two", "leave"]], ["enter", "one"], {})
    found = {matrix.name: matrix for column in columns for matrix in column}
    assert found["enter"].rows == found["one"].columns == found["two"].rows == [(0, n) for n in range(8)]
    assert found["one"].rows == found["two"].columns == [(1, n) for n in range(4)]
    assert found["enter"].columns == [None] * 3
    for name, matrix in found.items():
        assert (matrix.lives == plan.mask(f"{name}.weight").numpy()).all()


def test_weights_without_gaps_have_the_sizes_of_the_slim_model() -> None:
    graph = graphprune.trace(Residual(), torch.randn(2, 3))
    slim = graph.plan(0.5).apply(graph.model)
    (matrix,) = diagrams.matrices(graph, [["two"]], ["enter", "one"], {})[0]
    assert diagrams._without_gaps(matrix).lives.shape == slim.two.weight.shape


def test_every_picture_of_the_page_is_there() -> None:
    named = re.findall(r"\]\(images/(\S+)\)", diagrams.PAGE.read_text())
    assert len(named) > 6
    assert [name for name in named if not Path(diagrams.IMAGES, name).exists()] == []
