"""``graphprune advise``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from graphprune.cli import main

NETWORK = """
from torch import nn

def make():
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
"""


@pytest.fixture
def spec(tmp_path: Path) -> str:
    path = tmp_path / "small.py"
    path.write_text(NETWORK)
    return f"{path}:make"


QUICK = ("--input", "1,8", "--seconds", "0.2")


def test_advice_is_printed(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", spec, *QUICK, "--target", "params=0.5"]) == 0
    text = capsys.readouterr().out
    assert "target: params=0.5" in text
    assert "criterion: l2" in text


def test_advice_as_json(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", spec, *QUICK, "--meta", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["facts"]["on_meta"] is True


def test_a_target_that_is_none(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", spec, *QUICK, "--target", "mcas=0.5"]) == 2
    assert "did you mean macs" in capsys.readouterr().err
