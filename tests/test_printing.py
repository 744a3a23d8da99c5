"""Every result prints: one line as a part of something else, a table that people read, and HTML in notebooks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

import graphprune
from graphprune import ChannelGraph, Compensation, Cost, Folding, History, IterativeResult, Plan, Repair, Sensitivity
from graphprune.compaction.record import ZeroChannels, ZeroGroup, ZeroSlices
from graphprune.export.gguf.writing import GgufFile
from graphprune.export.onnx import OnnxFile
from graphprune.pruning.verification import Verification
from graphprune.reconstruction.folding import Folded
from graphprune.reconstruction.records import Compensated, LeftAlone, Repaired
from graphprune.rules.labels import ParameterAxis
from graphprune.sparsity.counting import ParameterZeros, Sparsity
from graphprune.sparsity.sparse_files import SparseFile
from graphprune.training.rounds import Round
from graphprune.utils.tables import Printed
from tests.utils.test_tables import WellFormed

SLIDE = torch.zeros(1, 3, 64, 64, device="meta")


def resnet50() -> ChannelGraph:
    return graphprune.trace(torchvision.models.resnet50(), SLIDE)


def vit_b_16() -> ChannelGraph:
    return graphprune.trace(torchvision.models.vit_b_16(), torch.zeros(1, 3, 224, 224, device="meta"))


def llama() -> ChannelGraph:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "vocab_size": 50}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 4, "num_hidden_layers": 24}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads))
    return graphprune.trace(model, {"input_ids": torch.zeros(1, 4, dtype=torch.long)})


@cache
def traced(name: str) -> ChannelGraph:
    with torch.device("meta"):
        made: ChannelGraph = globals()[name]()
    return made


NETWORKS = ("resnet50", "vit_b_16", "llama")


@pytest.mark.parametrize("name", NETWORKS)
def test_nothing_of_a_big_network_fills_a_screen_unasked(name: str) -> None:
    graph = traced(name)
    parts: list[Any] = [graph, graph.trace, graph.labeling, graph.labeling.labels.facts, graph.units, graph.costs]
    for one in (*parts, *graph.groups, *graph.blocks, graph.cost(), graph.plan(0.5, importance="random")):
        assert len(repr(one)) < 300 and "\n" not in repr(one)


@pytest.mark.parametrize(("name", "rows"), [("resnet50", 37), ("vit_b_16", 5), ("llama", 6)])
def test_repeated_layers_stand_in_one_row(name: str, rows: int) -> None:
    """The 37 groups of a ResNet-50 are listed; the 49 and 98 of the others are those of one layer, again and again."""
    graph = traced(name)
    for text in (str(graph), str(graph.plan(0.5, importance="random"))):
        lines = text.splitlines()
        table = lines[lines.index(next(line for line in lines if line.split()[:2] == ["group", "role"])) + 1 :]
        assert len([line for line in table if re.search(r" \d+ +\d+ +[\d.]+% +[\d.]+%", line)]) == rows
        assert len(lines) < 50
    assert len(str(graph.groups[0]).splitlines()) < 40


def test_a_group_says_why_it_goes_together() -> None:
    text = str(traced("llama").groups[0])
    assert "  model.layers.0-23.mlp.down_proj.weight[0]\n" in text
    assert re.search(
        r"aten::add.Tensor +.*model.layers.0-23.mlp.down_proj.weight\[0\].* = residual \+ hidden_states", text
    )


def records() -> Iterator[Printed]:
    yield Cost({"macs": 5, "params": 6, "bytes": 24, "cycles": 1234})
    yield Verification(1e-16, 1e-16, 2, 1e-10, ("layer_norm",), ("scale",))
    yield Verification(1.0, 1.0, 2, 1e-10, (), vacuous="the outputs are <constant>")
    compensation = Compensation(
        (Compensated("k.weight", "q.weight", 2, 0.5, 0.25),), (LeftAlone("v.weight", "<lambda> changes it"),), {}
    )
    yield compensation
    yield Repair((Repaired("fc.weight", 0.5, 0.1, "fc.bias", True),), (LeftAlone("a", "b"),), ("bn",), compensation)
    yield Folding((Folded("conv", 3, 0.9, ("fc.weight",)),), ("bn.running_var",), (LeftAlone("heads", "role"),))
    yield Folding((), (), ())
    yield History((0.5,) * 2000, (0.1,) * 2000, {2000: 0.9}, (1000, 2000))
    yield History()
    dense = Round(0, "nothing", 0.0, 100, 1000)
    bad = Round(2, "ratio 0.5", 0.5, 50, 500, 0.7, 0.75, good=False)
    yield IterativeResult(nn.Sequential(*(nn.Linear(2, 2) for _ in range(100))), dense, (bad,))
    yield Sensitivity(0.5, (0.25, 0.5), {"conv": ((0.25, 0.6), (0.5, 0.9))})
    yield OnnxFile(Path("a.onnx"), Path("a.data"), {"x": (1, "n")}, {"y": (1,)}, 1e-6, 1000, ("not <compared>",))
    yield Sparsity((ParameterZeros("0.weight", (2, 3), 4, 6, True), ParameterZeros("0.bias", (2,), 0, 2, False)))
    yield SparseFile(Path("a.safetensors"), 100, 99, 1000, 3)
    group = ZeroGroup("conv", "mlp", 8, 2, (("it is <asked> for", 1),))
    yield ZeroChannels(nn.Linear(1, 1), (group,), (ZeroSlices(ParameterAxis("fc.weight", 1), 1, 4, "a bias"),), (9, 7))
    yield GgufFile(Path("a.gguf"), "deci", "f16", (), (2, 1), (1, 1), (8, 4), 2048, 1e-3, 1000, ("a note",))


@pytest.mark.parametrize("record", list(records()), ids=lambda record: type(record).__name__)
def test_records_print_and_show_the_same(record: Printed) -> None:
    line, text = repr(record), str(record)
    assert line.startswith(f"<{type(record).__name__}: ") and len(line) < 200 and "\n" not in line
    html = WellFormed(record._repr_html_())
    shown = " ".join(t for tag in ("p", "summary", "th", "td") for t in html.texts.get(tag, ()))
    assert sorted(shown.split()) == sorted(text.split())
    assert not html.seen & {"script", "lambda", "constant", "compared", "asked"}


def test_a_graph_and_a_plan_show_the_same() -> None:
    graph = traced("resnet50")
    plan = Plan.from_json(graph.plan(0.5, importance="random").to_json())
    for one in (graph, plan, graph.groups[3]):
        html = WellFormed(one._repr_html_())
        shown = " ".join(t for tag in ("p", "summary", "th", "td") for t in html.texts.get(tag, ()))
        assert sorted(shown.split()) == sorted(str(one).split())


def test_a_custom_cost_is_printed() -> None:
    cost = Cost({"macs": 4089184256, "params": 25557032, "bytes": 102_400, "cycles": 1234})
    assert str(cost) == "4,089.2 M MACs, 25.56 M parameters, 102.4 kB, 1,234 cycles"
