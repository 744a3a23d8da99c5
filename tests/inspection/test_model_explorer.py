"""Files for Model Explorer have the documented fields, and their figures add up to those of the graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphprune
from graphprune import ChannelGraph, Plan
from graphprune.errors import InputError, PlanError
from models import resnet_cifar, vit

NODE = {"id", "label", "namespace", "attrs", "incomingEdges", "outputsMetadata"}
"""Of ``graph_builder.GraphNode``."""
EDGE = {"sourceNodeId", "sourceNodeOutputId", "targetNodeInputId"}
DATA = {"name", "results", "gradient", "hideInAggregatedStatsTable", "hideInChildrenStatsTable"}
"""Of ``node_data_builder.GraphNodeData``, and the name of TypeScript's ``NodeDataProviderGraphData``."""
RESULT = {"value", "bgColor"}


class Attending(nn.Module):
    """Key/value heads as many as query heads, which may share them."""

    def __init__(self) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads = 4, 4
        self.wq, self.wk, self.wv, self.wo = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        counts = (self.n_heads, self.n_kv_heads, self.n_kv_heads)
        pairs = zip((self.wq, self.wk, self.wv), counts, strict=True)
        q, k, v = (layer(x).unflatten(-1, (n, -1)).transpose(1, 2) for layer, n in pairs)
        mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return x + self.wo(mixed.transpose(1, 2).flatten(2))


@pytest.fixture(scope="module", params=[resnet_cifar.resnet20, vit.vit])
def case(request: Any) -> tuple[ChannelGraph, Plan]:
    graph = graphprune.trace(request.param(), torch.zeros(1, 3, 32, 32))
    return graph, graph.plan(0.5, importance="random")


def read(folder: Path) -> dict[str, Any]:
    return {path.stem: json.loads(path.read_text()) for path in folder.iterdir() if path.stem != "checksums"}


def test_the_graph_has_the_documented_form(case: tuple[ChannelGraph, Plan], tmp_path: Path) -> None:
    graph, plan = case
    graph.to_model_explorer(tmp_path / "out", plan)
    files = read(tmp_path / "out")
    assert files.keys() == {"graph", "groups", "frozen", "macs", "parameters", "kept"}
    (written,) = files["graph"]
    assert written.keys() == {"id", "nodes", "groupNodeAttributes"} and written["id"] == type(graph.model).__name__
    outputs = {node["id"]: {item["id"] for item in node.get("outputsMetadata", [])} for node in written["nodes"]}
    assert len(outputs) == len(written["nodes"]) == graph.trace.evaluated + 1
    for node in written["nodes"]:
        assert node.keys() <= NODE and isinstance(node["label"], str) and node["label"]
        assert all(item.keys() == {"key", "value"} and isinstance(item["value"], str) for item in node["attrs"])
        assert all(edge.keys() == EDGE for edge in node["incomingEdges"])
        assert all(edge["sourceNodeOutputId"] in outputs[edge["sourceNodeId"]] for edge in node["incomingEdges"])
    assert any("/" in node["namespace"] for node in written["nodes"])


def test_data_belongs_to_nodes(case: tuple[ChannelGraph, Plan], tmp_path: Path) -> None:
    graph, plan = case
    graph.to_model_explorer(tmp_path / "out", plan)
    files = read(tmp_path / "out")
    ((written),) = files.pop("graph")
    ids = {node["id"] for node in written["nodes"]}
    for stem, by_graph in files.items():
        (data,) = by_graph.values()
        assert list(by_graph) == [written["id"]] and data.keys() <= DATA and data["name"] == stem
        assert data["results"].keys() <= ids and all(r.keys() <= RESULT for r in data["results"].values())
        assert [item["stop"] for item in data.get("gradient", [])] in ([], [0, 1])


def test_figures_add_up(case: tuple[ChannelGraph, Plan], tmp_path: Path) -> None:
    graph, plan = case
    for given, cost in ((None, graph.cost()), (plan, graph.cost(plan))):
        graph.to_model_explorer(tmp_path / "out", given)
        files = read(tmp_path / "out")
        assert ("kept" in files) is (given is not None)
        for stem, total in (("macs", cost.macs), ("parameters", cost.params)):
            (data,) = files[stem].values()
            assert sum(result["value"] for result in data["results"].values()) == total
    (kept,) = files["kept"].values()
    shares = {name: result["value"] for name, result in kept["results"].items()}
    assert 0 < min(shares.values()) <= max(shares.values()) == 1
    for node in graph.trace.graph.nodes:
        if "tensor" in node.meta and node.name in shares:
            shape = plan.shape(node.meta["tensor"])
            assert shares[node.name] == pytest.approx(torch.Size(shape).numel() / node.meta["shape"].numel())


def test_blocks_that_are_left_out_cost_nothing(tmp_path: Path) -> None:
    graph = graphprune.trace(vit.vit(), torch.zeros(1, 3, 32, 32))
    plan = graph.plan(depth=0.5, importance="random", calibration=[torch.randn(2, 3, 32, 32)])
    assert plan.skipped
    graph.to_model_explorer(tmp_path / "out", plan)
    (data,) = read(tmp_path / "out")["macs"].values()
    assert sum(result["value"] for result in data["results"].values()) == graph.cost(plan).macs


def test_a_plan_that_merges_heads_is_refused(tmp_path: Path) -> None:
    graph = graphprune.trace(Attending().eval(), torch.randn(2, 5, 16))
    plan = graph.plan_merged_heads(2)
    with pytest.raises(PlanError, match="it merges heads"):
        graph.to_model_explorer(tmp_path / "out", plan)
    assert not (tmp_path / "out").exists()


def test_nodes_tell_groups_kept_units_and_reasons(tmp_path: Path) -> None:
    graph = graphprune.trace(resnet_cifar.resnet20(), torch.zeros(1, 3, 32, 32))
    graph.to_model_explorer(tmp_path / "out", graph.plan(0.5, importance="random"))
    files = read(tmp_path / "out")
    attributes = {
        item["value"]: [(i["key"], i["value"]) for i in node["attrs"]]
        for node in files["graph"][0]["nodes"]
        for item in node["attrs"]
        if item["key"] == "name"
    }
    choice = graph.groups[0]
    first = dict(attributes[choice.axes[0].parameter])
    assert first["dimension 0"].startswith(f"group {choice.name} ({choice.role}), ")
    assert first["dimension 0"].endswith("units kept: ratio 0.5")
    frozen = next(f for f in graph.frozen if f.reason == "output of the model")
    parameter = frozen.axis.partition("[")[0]
    assert (f"frozen {frozen.axis}", f"{frozen.count} of {frozen.size}: output of the model") in attributes[parameter]


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    graph = graphprune.trace(resnet_cifar.resnet20(), torch.zeros(1, 3, 32, 32))
    other = graphprune.trace(torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Linear(4, 2)), torch.zeros(1, 2))
    with pytest.raises(PlanError, match="speaks of group"):
        graph.to_model_explorer(tmp_path / "out", other.plan(0.5, importance="random"))
    with pytest.raises(InputError, match=r"plan: must be a graphprune.Plan"):
        graph.to_model_explorer(tmp_path / "out", 0.5)  # type: ignore[arg-type]
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match="holds what graphprune did not write"):
        graph.to_model_explorer(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
