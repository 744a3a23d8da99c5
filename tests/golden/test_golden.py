"""The same plans everywhere, and files of every version are read."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import graphprune
from tests.golden import formats, plans
from tests.training_net import net

FOLDERS = sorted(formats.FOLDER.iterdir())


def test_plans_are_as_always() -> None:
    assert plans.differences(plans.golden(), json.loads(plans.FILE.read_text())) == []


@pytest.mark.parametrize(("threads", "seed", "networks"), [(2, "12345", "resnet"), (4, "0", "gpt resnet")])
def test_plans_are_the_same_with_other_threads_another_hash_seed_and_another_order(
    threads: int, seed: str, networks: str
) -> None:
    environment = os.environ | {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "tests.golden.plans", "--threads", str(threads), "--networks", *networks.split()]
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "as always"), done.stdout + done.stderr


def random_numbers() -> tuple[Any, ...]:
    numbers = np.random.get_state()
    return torch.get_rng_state().tolist(), [np.asarray(part).tolist() for part in numbers], random.getstate()


X = torch.ones(4, 6)
Y = torch.arange(4) % 3
PLANNED: dict[str, dict[str, Any]] = {
    "l2": {},
    "random": {"importance": "random"},
    "wanda": {"importance": "wanda", "calibration": [X]},
    "taylor": {"importance": "taylor", "calibration": [(X, Y)], "loss_fn": torch.nn.functional.cross_entropy},
    "fisher without labels": {"importance": "fisher", "calibration": [X]},
    "auto": {"importance": "auto", "calibration": [X]},
    "searched": {"importance": "wanda", "calibration": [X], "allocation": "searched", "candidates": 4},
}


@pytest.mark.filterwarnings("ignore")
def test_no_public_function_moves_the_global_random_numbers(tmp_path: Path) -> None:
    model, other = net().eval(), net()
    before = random_numbers()
    graph = graphprune.trace(model, X)
    plan = graph.plan(0.5)
    slim = plan.apply(model)
    calls: dict[str, Callable[[], object]] = {
        **{name: partial(graphprune.prune_model, model, 0.5, X, **given) for name, given in PLANNED.items()},
        "verify": lambda: graphprune.verify(model, slim, plan, X),
        "repair": lambda: graphprune.repair(plan.apply(model), model, plan, [X]),
        "reestimate": lambda: graphprune.reestimate_batch_norm(plan.apply(model), [X]),
        "fold": lambda: graphprune.fold(plan.apply(model), model, plan),
        "synthesize": lambda: graphprune.synthesize(model, X, samples=4, steps=2),
        "measure": lambda: graphprune.measure(model, X, repeats=2),
        "sensitivity": lambda: graph.sensitivity(lambda one: float(one(X).sum()), (0.5,)),
        "save": lambda: graphprune.save(slim, tmp_path / "slim"),
        "load": lambda: graphprune.load(tmp_path / "slim", model),
        "source": lambda: graphprune.export_source(slim, tmp_path / "source"),
        "report": lambda: graphprune.write_report(tmp_path / "report.html", graph),
        "finetune": lambda: graphprune.finetune(
            plan.apply(model), [(X, Y)], steps=1, lr=0.1, loss_fn=torch.nn.functional.cross_entropy, progress=False
        ),
        "sparsify": lambda: graphprune.sparsify(other, 0.5, method="random", seed=1),
        "compact": lambda: graphprune.compact(model, X),
    }
    moved = []
    for name, call in calls.items():
        torch.set_rng_state(torch.tensor(before[0], dtype=torch.uint8))
        call()
        moved += [name] if random_numbers() != before else []
    assert moved == []


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
