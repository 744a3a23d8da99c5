"""The script that compares searched allocations with one-shot ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import searched
from benchmarks.notes import Notes
from benchmarks.tasks import TASKS


def test_medians_are_those_of_draws_that_all_allocations_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes, task = Notes(tmp_path / "notes.jsonl"), TASKS["text-gpt"]()
    monkeypatch.setattr(searched, "_notes", lambda network, share: notes)
    assert searched._medians(task, 0.5) is None
    for draw, name, bits in [(0, "global", 2.4), (0, "uniform", 2.3), (0, "isomorphic", 2.5), (1, "global", 1.0)]:
        notes.once({"draw": draw, "allocation": name}, lambda bits=bits: {"metric": bits, "left": 0.5})
    limit = searched.NETWORKS["text-gpt"]
    for seconds, bits in ((limit + 1, 1.0), (limit, 2.2)):
        key = {"draw": 0, "allocation": "searched", "time_limit": seconds}
        notes.once(key, lambda bits=bits: {"metric": bits, "left": 0.5, "candidates": 9, "seconds": 3.0})
    found = searched._medians(task, 0.5)
    assert found is not None
    assert found["draws"] == 1
    assert found["medians"] == {"global": 2.4, "uniform": 2.3, "isomorphic": 2.5, "searched": 2.2}
    assert found["ahead"]  # fewer bits are better
