"""docs/inspecting.md shows what its blocks print."""

from __future__ import annotations

import contextlib
import io
import linecache
import re
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs/inspecting.md"
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def printed(document: str, file: Path) -> list[tuple[str, str]]:
    """For every block of text, what it says, and what the blocks of Python since the last one print."""
    found, namespace, output = [], {"__name__": "document"}, io.StringIO()
    file.write_text(next(BLOCK.finditer(document))[2])
    linecache.checkcache(str(file))
    for block in BLOCK.finditer(document):
        if block[1] == "text":
            found.append((block[2], output.getvalue()))
            output = io.StringIO()
        else:
            with contextlib.redirect_stdout(output):
                exec(compile(block[2], str(file), "exec"), namespace)
    return found


def test_the_document_shows_what_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = printed(DOCUMENT.read_text(), tmp_path / "encoder.py")
    assert len(found) == 5
    for said, shown in found:
        assert said == shown.replace(f"{tmp_path}/", "")
    assert {path.name for path in tmp_path.iterdir()} >= {"couplings.graphml", "couplings.dot", "explorer"}
