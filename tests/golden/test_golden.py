"""The same plans everywhere, and files of every version are read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.golden import formats, plans

FOLDERS = sorted(formats.FOLDER.iterdir())


def test_plans_are_as_always() -> None:
    assert plans.differences(plans.golden(), json.loads(plans.FILE.read_text())) == []


def test_plans_are_the_same_with_other_threads_and_another_hash_seed() -> None:
    environment = os.environ | {"PYTHONHASHSEED": "12345", "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "tests.golden.plans", "--threads", "2", "--networks", "resnet"]
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "as always"), done.stdout + done.stderr


def test_planning_leaves_the_global_random_numbers_alone() -> None:
    make, inputs = plans.NETWORKS["resnet"]
    model, x = plans.network(make), inputs()
    before = torch.get_rng_state()
    plans.graphprune.trace(model, x).plan(0.5, importance="random")
    assert torch.equal(torch.get_rng_state(), before)


def test_every_format_that_is_written_now_is_kept() -> None:
    assert {f"{kind}-{version}" for kind, version in formats.VERSIONS.items()} <= {f.name for f in FOLDERS}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_files_of_every_version_are_read(folder: Path) -> None:
    expected = leaves(json.loads((folder / "says.json").read_text()))
    found = leaves(formats.READERS[folder.name.rpartition("-")[0]](folder / "files"))
    assert [leaf for leaf in found if isinstance(leaf, str)] == [leaf for leaf in expected if isinstance(leaf, str)]
    numbers = [[leaf for leaf in one if not isinstance(leaf, str)] for one in (found, expected)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-4, abs=1e-6)


def leaves(value: Any) -> list[Any]:
    """The keys, texts and numbers of JSON data."""
    if isinstance(value, dict):
        return [leaf for key in value for leaf in (key, *leaves(value[key]))]
    return [leaf for item in value for leaf in leaves(item)] if isinstance(value, list) else [value]
