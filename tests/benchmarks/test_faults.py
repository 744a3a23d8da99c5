"""The script that breaks calls and writes, and what it notices."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from benchmarks import faults

ROOT = Path(__file__).parents[2]


def test_errors_leave_everything_as_it_was(tmp_path: Path) -> None:
    found = faults.errors("prune by activations and repair", tmp_path, 4, random.Random(1))
    assert (found.tried, found.wrong) == (4, [])
    assert found.felt > 0


def test_an_interruption_is_felt(tmp_path: Path) -> None:
    """In a process of its own: nothing protects Python's own ``with`` from a signal in the midst of it."""
    program = (
        "import random; from pathlib import Path; from benchmarks import faults\n"
        "with faults.interruptible():\n"
        f"    found = faults.interrupts('verify', Path({str(tmp_path)!r}), 3, random.Random(1))\n"
        "print(found.tried, found.felt)"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split()[-2] == "3", done.stderr
    assert int(done.stdout.split()[-1]) > 0


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
