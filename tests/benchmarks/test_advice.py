"""The comparison of advised plans with others, on a hardly trained network."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import advice
from benchmarks.tasks import task as tasks


def test_the_comparison_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tasks, "TRAINED", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(advice, "SHARES", (0.5,))
    monkeypatch.setattr(advice, "ROUND_SHARES", (0.5,))
    assert advice.main(["--quick", "--only", "small-cnn"]) == 0
    printed = capsys.readouterr().out
    assert "advised" in printed
    assert "Of 1 comparisons the advice is the best in" in printed


def test_the_summary_counts_what_is_best_and_what_is_near() -> None:
    def run(share: float, **losses: float) -> list[dict[str, object]]:
        base = {"network": "net", "share": share, "seed": 0, "dense": 0.1}
        return [{**base, "way": way.replace("_", " "), "once": loss} for way, loss in losses.items()]

    results = [
        *run(0.5, advised=0.2, default=0.3),
        *run(0.25, advised=0.305, default=0.3),
        *run(0.1, advised=2, default=1),
    ]
    said = advice.summary(results)
    assert "Of 3 comparisons the advice is the best in 1, within 10% of the best rise of the loss in 2" in said
    assert "no worse than the default in 1" in said
