"""``graphprune measure``."""

import json
from pathlib import Path

import pytest

import graphprune
from graphprune.cli import main
from graphprune.cli.program import FAILED, OK, WRONG_USAGE

NETWORK = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
"""

INPUT = ("--input", "1,3,8,8")


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "network.py"
    path.write_text(NETWORK)
    return f"{path}:make"


def test_a_model_is_measured(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measure", spec, *INPUT, "--batch", "1,2", "--repeats", "1", "--threads", "1", "--layers"]) == OK
    out = capsys.readouterr().out
    for label in ("parameters", "latency, batch 1", "latency, batch 2", "Sequential: layers", "Conv2d"):
        assert label in out


def test_json_and_markdown(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measure", spec, *INPUT, "--untimed", "--json"]) == OK
    found = graphprune.Measurement.from_json(capsys.readouterr().out)
    assert found.parameters == 3 * 8 * 9 + 8 + 8 * 4 * 9 + 4 and not found.latencies
    assert main(["measure", spec, *INPUT, "--untimed", "--markdown"]) == OK
    assert capsys.readouterr().out == found.to_markdown()
    assert main(["measure", spec, *INPUT, "--meta", "--json"]) == OK
    assert json.loads(capsys.readouterr().out)["nonzero"] is None


def test_a_slim_model_beside_its_dense_one(spec: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "slim")
    assert main(["prune", spec, *INPUT, "--ratio", "0.5", "-o", folder]) == OK
    capsys.readouterr()
    assert main(["measure", spec, folder, "--model", spec, "--untimed", "--json"]) == OK
    found = graphprune.Comparison.from_json(capsys.readouterr().out)
    assert list(found.measurements) == [spec, folder]
    assert found[folder].parameters == 3 * 4 * 9 + 4 + 4 * 4 * 9 + 4
    assert found[folder].inputs == "f32[1, 3, 8, 8]"
    weights = tmp_path / "weights.pt"
    weights.touch()
    assert main(["measure", folder, "--model", spec, "--weights", str(weights)]) == WRONG_USAGE
    assert "--weights: is for one SPEC" in capsys.readouterr().err


def test_wrong_usage(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["measure", spec, spec]) == WRONG_USAGE
    assert "SPEC: the same model is named twice" in capsys.readouterr().err
    for line, said in (
        ("--repeats 0", "--repeats: must be 1 or more, but is 0"),
        ("--threads 0", "--threads: must be 1 or more, but is 0"),
        ("--untimed --repeats 3", "--repeats: given together with --untimed"),
        ("--meta --batch 1,8", "--batch: given together with --meta, with which nothing is timed"),
        ("--meta --repeats 5", "--repeats: given together with --meta"),
        ("--untimed --compiled", "--compiled: given together with --untimed"),
        ("--model net.py:make", "--model: is for the folder of a slim model, and there is none"),
        ("--trust-factory", "--trust-factory: is for the folder of a slim model"),
        ("--meta --weights .", "--weights: given together with --meta"),
    ):
        assert main(["measure", spec, *line.split()]) == WRONG_USAGE
        assert said in capsys.readouterr().err
    assert main(["measure", "torchvision:no_such"]) == FAILED
    assert "is not a torchvision model" in capsys.readouterr().err
