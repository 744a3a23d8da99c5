"""How much of what pruning loses comes back without labels and without training?

Half of the MACs of three trained networks go; then each ingredient of repair is tried alone, and all together, with
:attr:`Task.samples` unlabeled samples or with none. *Gap closed* is (repaired - plain) / (dense - plain), where plain
is pruning by L2 magnitude. Medians over seeds: each has its own dense network (MiniLM: its published weights) and its
own samples.

MiniLM takes an hour and more. Each seed is noted in ``results/repair`` as it ends, and is not repeated while its note
is there: a script that was stopped goes on.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.table import Table
from torch import nn

import graphprune
from benchmarks.common import RESULTS, quiet_one_thread, row, table, wide_console, write_json
from benchmarks.notes import Notes
from benchmarks.tasks import TASKS, Task
from graphprune.utils.modules import named_modules

NETWORKS = ("digits-resnet20", "text-gpt", "sentences-minilm")
SHARE = 0.5


@dataclass(frozen=True)
class Scene:
    """A dense network, what was pruned of it by L2 magnitude, and samples without labels."""

    task: Task
    dense: nn.Module
    graph: graphprune.ChannelGraph
    plan: graphprune.Plan
    samples: list[Any]
    seed: int

    @staticmethod
    def of(task: Task, seed: int) -> Scene:
        dense = task.dense(seed)
        graph = graphprune.trace(dense, task.example_inputs)
        return Scene(task, dense, graph, graph.plan(macs=SHARE), task.calibration(task.samples, seed), seed)

    def plain(self) -> nn.Module:
        return self.plan.apply(self.dense)

    def norms(self) -> bool:
        """Are there batch norms?"""
        return any(isinstance(m, nn.modules.batchnorm._BatchNorm) for _, m in named_modules(self.dense))

    def by(self, importance: str) -> graphprune.Plan:
        return self.graph.plan(macs=SHARE, importance=importance, calibration=self.samples)


# ---------------------------------------------------------------- ingredients


def _plain(scene: Scene) -> nn.Module:
    return scene.plain()


def _folded(scene: Scene) -> nn.Module:
    slim = scene.plain()
    graphprune.fold(slim, scene.dense, scene.plan, scene.task.example_inputs)
    return slim


def _synthesized(scene: Scene) -> nn.Module | None:
    if not scene.norms():
        return None
    made = graphprune.synthesize(scene.dense, scene.task.example_inputs, scene.task.samples, seed=scene.seed)
    return _repaired_with(scene, scene.plan, made)


def _norms(scene: Scene) -> nn.Module | None:
    if not scene.norms():
        return None
    slim = scene.plain()
    graphprune.reestimate_batch_norm(slim, scene.samples)
    return slim


def _reconstructed(scene: Scene) -> nn.Module:
    slim = scene.plain()
    graphprune.reconstruct(slim, scene.dense, scene.plan, scene.samples)
    return slim


def _repaired(scene: Scene) -> nn.Module:
    return _repaired_with(scene, scene.plan, scene.samples)


def _repaired_with(scene: Scene, plan: graphprune.Plan, samples: Iterable[Any]) -> nn.Module:
    slim = plan.apply(scene.dense)
    graphprune.repair(slim, scene.dense, plan, samples)
    return slim


def _narrower(scene: Scene) -> nn.Module | None:
    """Heads become narrower instead of fewer, and errors count as they are, not by what a layer gives."""
    if not any(group.role == "head_width" for group in scene.graph.groups):
        return None
    options: dict[str, Any] = {"head_width": 0.25, "normalize": "none", "max_ratio": 0.7}
    plan = scene.graph.plan(macs=SHARE, importance="schur", calibration=scene.samples, **options)
    return _repaired_with(scene, plan, scene.samples)


def _by(importance: str, repaired: bool) -> Callable[[Scene], nn.Module]:
    def made(scene: Scene) -> nn.Module:
        plan = scene.by(importance)
        return _repaired_with(scene, plan, scene.samples) if repaired else plan.apply(scene.dense)

    return made


METHODS: dict[str, Callable[[Scene], nn.Module | None]] = {
    "plain L2": _plain,
    "folding, no data": _folded,
    "synthesized data, repair": _synthesized,
    "batch norms alone": _norms,
    "reconstruction alone": _reconstructed,
    "repair (the default)": _repaired,
    "wanda, not repaired": _by("wanda", False),
    "wanda, repair": _by("wanda", True),
    "flap, repair": _by("flap", True),
    "schur, repair": _by("schur", True),
    "schur, narrower heads, repair": _narrower,
}
"""What is made of a scene; None where there is nothing of the kind to do."""


# ---------------------------------------------------------------- measuring


def main() -> int:
    """Print the tables, write ``results/repair.json``."""
    options = _options()
    quiet_one_thread()
    console = wide_console()
    results = {}
    for name in NETWORKS:
        if options.only in name:
            task = TASKS[name](quick=options.quick)
            with console.status(name):
                runs = _runs(task, options)
            results[name] = {"metric": task.metric, "higher": task.higher, "runs": runs}
            console.print(_table(name, task, runs))
    if not options.only and not options.quick:
        write_json("repair.json", {"torch": torch.__version__, "macs": SHARE, "tasks": results})
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="how many dense networks and sets of samples")
    parser.add_argument("--only", default="", metavar="TEXT", help="only the networks whose name contains this")
    parser.add_argument("--quick", action="store_true", help="hardly trained networks, to try things out")
    return parser.parse_args()


def _runs(task: Task, options: argparse.Namespace) -> list[dict[str, dict[str, float]]]:
    """What every seed measured, now or when it was noted."""
    notes = Notes(None if options.quick else RESULTS / "repair" / f"{task.name}.jsonl")
    noted = (notes.once({"seed": seed}, partial(_run, task, seed)) for seed in range(options.seeds))
    return [{name: found for name, found in run.items() if name != "seed"} for run in noted]


def _run(task: Task, seed: int) -> dict[str, dict[str, float]]:
    """What every method measures, and the seconds that it takes beyond planning."""
    scene = Scene.of(task, seed)
    found = {"dense": task.measures(scene.dense)}
    for name, method in METHODS.items():
        start = time.perf_counter()
        slim = method(scene)
        seconds = time.perf_counter() - start
        if slim is not None:
            found[name] = task.measures(slim) | {"seconds": seconds}
    return found


def closed(run: dict[str, dict[str, float]], method: str, metric: str) -> float:
    """The part of the gap between plain pruning and the dense network that a method closes."""
    dense, plain, found = (run[name][metric] for name in ("dense", "plain L2", method))
    return (found - plain) / (dense - plain) + 0.0  # no negative zero


def _table(name: str, task: Task, runs: list[dict[str, dict[str, float]]]) -> Table:
    measures = list(runs[0]["dense"])
    made = table(f"{name}: MACs {SHARE}, {len(runs)} seeds", "", *measures, "gap closed", "least", "s")
    for method in runs[0]:
        values = [f"{statistics.median(run[method][m] for run in runs):.4f}" for m in measures]
        gaps = [closed(run, method, task.metric) for run in runs]
        seconds = statistics.median(run[method].get("seconds", 0.0) for run in runs)
        row(made, method, *values, f"{statistics.median(gaps):.1%}", f"{min(gaps):.1%}", f"{seconds:.1f}")
    return made


if __name__ == "__main__":
    sys.exit(main())
