"""Line feeds alone end lines."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

import graphprune
from graphprune.cli.data_files import read_records
from graphprune.errors import InputError
from graphprune.utils.text_lines import lines_of

ODD = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("", []), ("a", ["a"]), ("a\n", ["a"]), ("\n\na", ["", "", "a"]), (f"a{ODD}b\nc\n\n", [f"a{ODD}b", "c", ""])],
)
def test_lines(text: str, wanted: list[str]) -> None:
    assert lines_of(text) == wanted
    assert "".join(lines_of(text, ends=True)) == text


def test_records_may_hold_what_ends_lines_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    rows = [{"x": [1, 2]}, {"x": [3, 4]}]
    path.write_text("\n\n".join(json.dumps(row | {ODD: [5]}, ensure_ascii=False) for row in rows), encoding="utf-8")
    batches, said = read_records("--calibration", path, 9, None, 9)
    assert [list(batch) for batch in batches] == [["x", ODD]] * 2
    assert said.startswith("2 of 2 records")


def test_the_line_that_is_named_counts_empty_ones(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"x": [1]}\n\n\nnothing\n')
    with pytest.raises(InputError, match="line 4 of"):
        read_records("--calibration", path, 9, None, 9)


SOURCE = """import torch
from torch import nn
\x0c
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)
\x0c
    def forward(self, x):
        return self.b(self.a(x).relu())
"""


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sources_with_form_feeds_are_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "feeding.py"
    path.write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    model = __import__("feeding").Net().eval()
    x = torch.randn(2, 4)
    slim = graphprune.prune_model(model, 0.5, x)
    again = loaded(graphprune.export_source(slim, tmp_path / "slim"))
    assert again.Net().a.out_features == 4
