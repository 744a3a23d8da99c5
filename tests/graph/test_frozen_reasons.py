"""Reasons why axes stay: what they say, and where in the code that is."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

import graphprune
from graphprune.cli.tables import reason_table
from graphprune.graph.frozen import frozen_by_reason
from graphprune.report.frozen_shares import frozen_reasons
from graphprune.report.module_tree import ModuleTree

SOURCE = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x):
        x = self.first(x).view(-1, 6)
        x = self.second(x).view(-1, 6)
        return self.last(x), x.sum(0)
"""


@pytest.fixture(params=["plain", "with a blank, at x"])
def graph(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Of a model whose source lies in a folder of this name."""
    folder = tmp_path / request.param
    folder.mkdir()
    (folder / "net.py").write_text(SOURCE)
    return graphprune.trace(runpy.run_path(str(folder / "net.py"))["Net"](), torch.zeros(2, 4))


def test_reasons_are_told_apart_by_what_happened_whatever_the_place_is_called(graph: Any) -> None:
    for why, items in frozen_by_reason(graph.frozen).items():
        assert "net.py" not in why
        assert {one.reason for one in items} == {f"{why}{one.why.where}" for one in items}
    places = {one.why.place.partition("net.py")[2] for one in graph.frozen}
    assert len(places) > 1


def test_tables_and_pages_show_the_place_beside_the_reason(graph: Any) -> None:
    assert not any("net.py" in line[0] for line in reason_table(graph).lines)
    assert any("net.py" in line[2] for line in reason_table(graph).lines)
    tree = ModuleTree(graph)
    assert not any("net.py" in one.why for one in frozen_reasons(graph, tree))
