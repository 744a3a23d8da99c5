"""``graphprune explain``, and the files that ``graphprune inspect`` writes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import networkx as nx
import pytest

from graphprune.cli import main
from graphprune.cli.program import FAILED, OK, WRONG_USAGE

INPUT = ("--input", "1,3,8,8")

NETWORK = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
"""


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "network.py"
    path.write_text(NETWORK)
    return f"{path}:make"


def test_explain(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", spec, "0", *INPUT]) == OK
    out = capsys.readouterr().out
    assert out.startswith("0 (Conv2d) takes part in group 0.\nGroup 0: 8 channels")
    assert "Removing one channel removes an entry of 0 and an entry of the inputs of 2." in out


def test_no_line_of_a_library_stands_for_a_model_without_source(spec: str, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    command = [sys.executable, "-m", "graphprune"]
    done = subprocess.run([*command, "explain", spec, "0", *INPUT], capture_output=True, text=True, check=True)
    subprocess.run([*command, "report", spec, *INPUT, "-o", str(page)], capture_output=True, check=True)
    assert "main.py" not in done.stdout and "callback" not in done.stdout
    assert "typer" not in page.read_text(encoding="utf-8")


def test_explain_why_frozen_as_json(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", spec, "2", "--why-frozen", "--meta", "--json", *INPUT]) == OK
    data = json.loads(capsys.readouterr().out)
    assert data["name"] == "2 (Conv2d)" and data["groups"] == ["0"]
    assert data["frozen"][0] == {"axis": "2.weight[0]", "count": 4, "size": 4, "reason": "output of the model"}
    assert data["text"][0].startswith("All 4 entries of 2.weight[0] and 2.bias[0] stay: output of the model.")


def test_explain_an_unknown_name(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", spec, "2.wieght", *INPUT]) == FAILED
    assert "'2.wieght' is no module, parameter, axis or group" in capsys.readouterr().err


def test_inspect_writes_files(spec: str, tmp_path: Path) -> None:
    file, folder = tmp_path / "couplings.graphml", tmp_path / "explorer"
    assert main(["inspect", spec, *INPUT, "--json", "--to", str(file), "--explorer", str(folder)]) == OK
    assert "0.weight[0]" in nx.read_graphml(file)
    assert {path.name for path in folder.iterdir()} >= {"graph.json", "groups.json", "macs.json"}


@pytest.mark.parametrize(("name", "said"), [("a.png", "must end with one of .graphml"), ("no/a.dot", "is no folder")])
def test_a_file_of_another_kind_is_wrong_usage(
    spec: str, name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", spec, "--to", str(tmp_path / name)]) == WRONG_USAGE
    assert said in capsys.readouterr().err
