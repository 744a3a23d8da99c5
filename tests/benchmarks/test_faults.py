"""The script that breaks calls and writes, and what it notices."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from benchmarks import faults


def test_errors_leave_everything_as_it_was(tmp_path: Path) -> None:
    found = faults.errors("prune by activations and repair", tmp_path, 4, random.Random(1))
    assert (found.tried, found.wrong) == (4, [])
    assert found.felt > 0


def test_interrupts_leave_everything_as_it_was(tmp_path: Path) -> None:
    with faults.interruptible():
        found = faults.interrupts("verify", tmp_path, 3, random.Random(1))
    assert (found.tried, found.wrong) == (3, [])


def test_a_full_disk_leaves_the_old_files(tmp_path: Path) -> None:
    found = faults.full_disks("sparse file", tmp_path, 3, random.Random(1))
    assert (found.tried, found.felt, found.wrong) == (3, 3, [])


def _spoil(model: nn.Module, folder: Path) -> Any:
    """Changes the model before the user's forward is called."""
    model.enter.bias.data.add_(1)
    return model(faults.X)


def _leave(model: nn.Module, folder: Path) -> Any:
    (folder / ".half.tmp").write_text("half")
    return model(faults.X)


@pytest.mark.parametrize(("job", "said"), [(_spoil, "changed the model"), (_leave, "are left")])
def test_what_is_changed_or_left_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job: Any, said: str
) -> None:
    monkeypatch.setitem(faults.JOBS, "spoiled", job)
    (line,) = faults.errors("spoiled", tmp_path, 1, random.Random(0)).wrong
    assert said in line
