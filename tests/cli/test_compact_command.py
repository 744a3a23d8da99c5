"""``graphprune compact``: from a checkpoint with masks to a smaller model."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune

import graphprune
from graphprune.cli import main
from graphprune.cli.weights import load_weights

NETWORK = """
from torch import nn


def make():
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
"""


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))


def masked() -> nn.Sequential:
    model = network()
    prune.ln_structured(model[0], "weight", 0.5, n=2, dim=0)
    return model


@pytest.fixture
def spec(tmp_path: Path) -> str:
    (tmp_path / "network.py").write_text(NETWORK)
    return f"{tmp_path / 'network.py'}:make"


def test_a_checkpoint_with_masks(spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = masked()
    torch.save({"model": {f"module.{name}": t for name, t in model.state_dict().items()}}, tmp_path / "masked.pt")
    out = tmp_path / "slim"
    assert main(["compact", spec, "--weights", str(tmp_path / "masked.pt"), "--input", "1,5", "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("4 zero channels, 4 removed; 75 -> 39 parameters\n")
    slim = graphprune.load(out, model=network())
    assert slim[0].out_features == 4
    x = torch.randn(3, 5)
    assert torch.allclose(slim(x), model(x), atol=1e-6)


def test_masks_beside_the_weights_and_json(spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = torch.ones(8, 5)
    mask[[1, 6]] = 0
    save_file({"0.weight": mask}, tmp_path / "masks.safetensors")
    torch.save(network().state_dict(), tmp_path / "dense.pt")
    files = ["--weights", str(tmp_path / "dense.pt"), "--masks", str(tmp_path / "masks.safetensors")]
    assert main(["compact", spec, *files, "--input", "1,5", "--json", "-o", str(tmp_path / "slim")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == [75, 57]
    assert found["groups"] == [{"name": "0", "role": "mlp", "units": 8, "removed": 2, "kept": []}]


def test_nothing_is_saved_where_nothing_went(spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compact", spec, "--input", "1,5", "-o", str(tmp_path / "slim")]) == 1
    assert "no channel can go; not saved" in capsys.readouterr().err
    assert not (tmp_path / "slim").exists()


def test_masks_are_multiplied_in_unless_the_model_has_them(tmp_path: Path) -> None:
    torch.save(masked().state_dict(), tmp_path / "masked.pt")
    plain, own = network(), network()
    prune.identity(own[0], "weight")
    for model in (plain, own):
        load_weights(model, tmp_path / "masked.pt")
        x = torch.randn(2, 5)
        assert torch.equal(model(x), masked()(x))
    assert "0.weight_mask" in own.state_dict()
