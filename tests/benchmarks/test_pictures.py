"""The script that draws the pictures of the documentation."""

from pathlib import Path

import pytest

pytest.importorskip("sklearn")

from benchmarks import pictures
from benchmarks.tasks import task


def test_a_sample_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(task, "TRAINED", tmp_path)
    monkeypatch.setattr(pictures, "write_json", lambda *_: pytest.fail("a sample is no result"))
    assert pictures.main(["--sample", "--images", str(tmp_path / "images")]) == 0
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == ["accuracy.png", "widths.png"]
    assert all(path.stat().st_size < 100_000 for path in (tmp_path / "images").iterdir())
    out = capsys.readouterr().out
    assert "repaired" in out and "trained again" in out


def test_the_pictures_of_the_documentation_are_small() -> None:
    images = list(pictures.IMAGES.glob("*.png"))
    assert {path.name for path in images} >= {"accuracy.png", "widths.png"}
    assert all(path.stat().st_size < 100_000 for path in images)
