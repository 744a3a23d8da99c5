"""Networks of the sort that people write, in a package of several files: their source runs without it."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphprune
from tests.branches import NETWORKS as BRANCHED
from tests.branches import plan_without
from tests.export.source.program import networks
from tests.export.source.program.networks import EXAMPLES, NETWORKS


def example(name: str) -> Any:
    return EXAMPLES.get(name, torch.randn(2, 3, 16, 16))


def written(name: str, folder: Path) -> str:
    """The source of a network, which ``export_source`` has run beside the network."""
    return graphprune.export_source(getattr(networks, name)(), folder, example(name)).read_text()


@pytest.mark.parametrize("name", NETWORKS)
def test_its_source_computes_the_same(name: str, tmp_path: Path) -> None:
    text = written(name, tmp_path)
    assert "from program" not in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.py", "model.safetensors"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ListOfLayers", "*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))"),
        ("ListOfLayers", "SLOPE = 0.2\n"),
        ("HelperFunctions", "    # a comment that stays\n    return math.sqrt(n) + _SECRET\n"),
        ("HelperFunctions", "@wrapped\ndef shifted(x, by=EPSILON):\n"),
        ("SameNames", "class Attention2(nn.Module):\n"),
        ("Tied", "self.again = self.block\n        self.head.weight = self.embed.weight\n"),
        ("SharedLayers", "self.layers[2] = self.layers[0]\n"),
        ("Frozen", "self.conv.requires_grad_(False)\n        self.fc.bias.requires_grad_(False)\n"),
        ("HalfPrecision", "model = HalfPrecision().to(torch.bfloat16)\n"),
        ("MixedPrecision", "self.fc = nn.Linear(8, 5, dtype=torch.float64)\n"),
        ("Buffers", 'model.get_buffer("mask").copy_(state.pop("mask"))\n'),
        ("Training", "return Pair(y, self.aux(y))\n"),
        ("Generator", "    def generate(self, tokens, steps=3):\n"),
        ("Tree", "model = Tree(Tree(Tree(None)), right=Tree(Tree(None)))\n"),
        ("WithEnum", "self.mode = Mode.MULTIPLY\n"),
        ("WithNamespace", "self.args = SimpleNamespace(slope=0.3, deep=SimpleNamespace(gain=2))\n"),
        ("LambdaAttribute", "self.act = lambda x: torch.clamp(x, min=-0.1) * 2\n"),
        ("UsesSequentialSubclass", '"third-1": nn.ReLU6()'),
        ("Variants", "self.blocks = nn.Sequential(Block2(), Block2(), *(Block() for _ in range(3)))\n"),
        ("Variants", "        nn.Sequential.__init__("),
        ("WithConfig", "self.config = Config(inner=Inner())\n"),
        ("GuardedImports", '    try:\n        raise ModuleNotFoundError("not imported: import no_such_library")\n'),
        ("GuardedImports", "            import os.path\n"),
    ],
)
def test_what_stands_in_the_source(name: str, expected: str, tmp_path: Path) -> None:
    assert expected in written(name, tmp_path)


def test_containers_and_single_layers_become_a_class(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3, bias=False))
    path = graphprune.export_source(model, tmp_path / "one" / "two", torch.randn(2, 4))
    assert "class Model(nn.Sequential):\n" in path.read_text()
    assert "super().__init__(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3, bias=False))\n" in path.read_text()
    graphprune.export_source(nn.Linear(4, 3), tmp_path / "one" / "two", torch.randn(2, 4))
    assert "super().__init__(4, 3)" in path.read_text()


def test_branches_that_were_left_out(tmp_path: Path) -> None:
    build, image, _ = BRANCHED["vit"]
    graph = graphprune.trace(build().eval(), image)
    slim = plan_without(graph, graph.branches[0].path, graph.branches[3].path, macs=0.6).apply(graph.model)
    assert "torch.zeros_like(" in graphprune.export_source(slim, tmp_path, image).read_text()


def test_without_ruff_the_lines_are_the_authors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr("shutil.which", lambda name: None)
    text = written("Training", tmp_path / "out")
    assert "        super().train(mode)\n        self.bn.eval()\n        return self\n" in text
    assert max(map(len, text.splitlines())) <= 120


def test_the_model_stays_as_it_was(tmp_path: Path) -> None:
    model = networks.Training().train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    inputs, state = example("Training"), torch.get_rng_state()
    graphprune.export_source(model, tmp_path, inputs)
    assert model.training
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
