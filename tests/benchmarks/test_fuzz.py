"""The script that reads damaged files, and what it notices."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.fuzz import KINDS, Kind, Watch, fuzz

WATCH = Watch()


@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_are_refused_or_read(tmp_path: Path, name: str) -> None:
    found = fuzz(KINDS[name], tmp_path, 25, 0, WATCH)
    assert found.wrong == []
    assert sum(found.kinds.values()) == 25
    assert found.kinds["refused"] > 10 or name == "kernel times"


def _hoard(path: Path) -> Any:
    return [bytes(1 << 20) for _ in range(300)] if path.read_bytes() != b'{"a": 1}' else 0


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda path: json.loads(path.read_bytes()), "JSONDecodeError"),
        (lambda path: eval(path.read_bytes().decode(errors="replace").replace("\0", "")), "compile"),
        (lambda path: path.with_name("other").write_text("x"), "open"),
        (_hoard, "MemoryError"),
    ],
    ids=["raw error", "runs code", "writes a file", "hoards memory"],
)
def test_what_must_not_happen_is_noticed(tmp_path: Path, read: Callable[[Path], Any], said: str) -> None:
    kind = Kind(lambda folder: (folder / "a.json").write_text('{"a": 1}'), lambda folder: read(folder / "a.json"))
    found = fuzz(kind, tmp_path, 12, 0, WATCH)
    assert any(said in line for line in found.wrong)
