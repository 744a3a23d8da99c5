"""The coupling graph is read back from each format as it was written."""

from __future__ import annotations

import json
import re
from inspect import signature
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune import ChannelGraph
from graphprune.errors import InputError
from graphprune.inspection.coupling_files import COUPLING_SUFFIXES, plain_couplings
from models import vit


class Quoted(nn.Module):
    """A line of the program with quotes, backslashes and angle brackets, and several edges between two axes."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.one(x) + self.two(x) if "<\"\\'>" else x
        return self.last(y + self.two(x))


@pytest.fixture(scope="module", params=[Quoted, vit.vit])
def graph(request: Any) -> ChannelGraph:
    made = request.param()
    return graphprune.trace(made, torch.zeros(2, 3) if isinstance(made, Quoted) else torch.zeros(1, 3, 32, 32))


def test_graphml_is_read_back(graph: ChannelGraph, tmp_path: Path) -> None:
    graph.export(tmp_path / "couplings.graphml")
    found = nx.read_graphml(tmp_path / "couplings.graphml", force_multigraph=True, edge_key_type=int)
    plain = plain_couplings(graph)
    assert found.graph.pop("model") == type(graph.model).__name__
    assert found.graph.pop("generator") == "graphprune: couplings" and not any(found.graph.values())
    found.graph.clear()
    plain.graph.clear()
    assert nx.utils.graphs_equal(found, plain)
    assert {type(v) for _, data in found.nodes(data=True) for v in data.values()} == {str, int}


def test_json_is_read_back(graph: ChannelGraph, tmp_path: Path) -> None:
    graph.export(tmp_path / "couplings.json")
    data = json.loads((tmp_path / "couplings.json").read_text())
    named = "edges" if "edges" in signature(nx.node_link_graph).parameters else "link"  # before networkx 3.4
    found = nx.node_link_graph(data, **{named: "edges"})
    assert nx.utils.graphs_equal(found, plain_couplings(graph))
    assert found.graph == {"generator": "graphprune: couplings", "model": type(graph.model).__name__}


STRING = r'"((?:[^"\\]|\\.)*)"'


@pytest.mark.parametrize("suffix", [".dot", ".gv"])
def test_dot_is_read_back(graph: ChannelGraph, tmp_path: Path, suffix: str) -> None:
    graph.export(str(tmp_path / f"couplings{suffix}"))
    _, first, *lines, last = (tmp_path / f"couplings{suffix}").read_text().splitlines()
    assert re.fullmatch(rf"graph {STRING} {{", first) and last == "}"
    plain = plain_couplings(graph)
    nodes = [m for line in lines if (m := re.fullmatch(rf"  {STRING} \[((?:\w+={STRING}(?:, )?)*)\];", line))]
    edges = [
        m for line in lines if (m := re.fullmatch(rf"  {STRING} -- {STRING} \[((?:\w+={STRING}(?:, )?)*)\];", line))
    ]
    assert len(nodes) + len(edges) == len(lines)
    assert [m[1] for m in nodes] == list(plain.nodes)
    assert [(m[1], m[2]) for m in edges] == [(a, b) for a, b, _ in plain.edges]
    read = [{k: re.sub(r"\\(.)", r"\1", v) for k, v in re.findall(rf"(\w+)={STRING}", m[3])} for m in edges]
    assert read == [{"label": d["op"], **{k: str(v) for k, v in d.items()}} for *_, d in plain.edges(data=True)]


def test_nodes_say_their_groups_and_why_they_stay() -> None:
    graph = graphprune.trace(Quoted(), torch.zeros(2, 3))
    nodes = plain_couplings(graph).nodes
    assert nodes["two.weight[0]"] == {
        "kind": "channel", "size": 4, "parameter": "two.weight", "dim": 0, "groups": "one", "role": "mlp"
    }  # fmt: skip
    assert nodes["last.weight[0]"]["frozen"] == "output of the model"
    assert "groups" not in nodes["last.weight[0]"]
    codes = {data["code"] for *_, data in plain_couplings(graph).edges(data=True)}
    assert any('"<\\"' in code for code in codes)


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    graph = graphprune.trace(nn.Linear(2, 2), torch.zeros(1, 2))
    for name, shown in (("graph.png", "'.png'"), ("graph", "'no suffix'")):
        with pytest.raises(InputError, match=f"ends with {shown}; use one of .graphml, .dot, .gv, .json"):
            graph.export(tmp_path / name)
    with pytest.raises(InputError, match="path: must be a path"):
        graph.export(3)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graphprune.trace(nn.Linear(2, 2), torch.zeros(1, 2))
    path = tmp_path / "couplings.json"
    graph.export(path)
    before = path.read_text()
    monkeypatch.setattr(json, "dumps", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        graph.export(path)
    assert path.read_text() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", COUPLING_SUFFIXES)
def test_only_files_of_its_own_are_replaced(graph: ChannelGraph, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"package{suffix}"
    path.touch()
    for _ in range(2):
        graph.export(path)
    path.write_text("{}")
    with pytest.raises(InputError, match=r"path: .* exists and is no file of couplings that graphprune wrote"):
        graph.export(path)
    assert path.read_text() == "{}"
