"""Fifty times fewer parameters, physically: a ResNet-18 that reads digits, pruned in rounds, taught by the dense one.

The table has accuracy, sizes and the CPU's time for one image and for 64 (one thread, in turn, medians); the last line
the medians over the seeds. A seed is another dense network and another order of batches.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

import torch
from rich.table import Table
from torch import nn

import graphprune
from benchmarks.common import interleaved, quiet_one_thread, row, table, wide_console, write_json
from benchmarks.tasks import TASKS, Task

NETWORK = "digits-resnet18"
TIMES = 50
BATCHES = (1, 64)
TEACHING = graphprune.Distillation(temperature=4, alpha=0.9)


def main(arguments: list[str] | None = None) -> int:
    """Print the table, write ``results/fifty.json``; 1 unless 50 times smaller within one point, by the medians."""
    options = _options(arguments)
    quiet_one_thread()
    console = wide_console()
    task = TASKS[NETWORK](options.quick)
    results = []
    for seed in range(options.seeds):
        with console.status(f"seed {seed}"):
            results.append(_measure(task, seed, options))
    console.print(_table(results))
    if options.quick:
        return 0
    settings = {"torch": torch.__version__, "rounds": options.rounds, "epochs": options.epochs}
    write_json("fifty.json", settings | {"seeds": results, "medians": _medians(results)})
    done = _medians(results)
    return 0 if done["fewer"] >= TIMES and done["accuracy"] >= done["dense_accuracy"] - 0.01 else 1


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="dense networks (default: 5)")
    parser.add_argument("--rounds", type=int, default=5, help="times of pruning and training (default: 5)")
    parser.add_argument("--epochs", type=int, default=6, help="of training after each (default: 6)")
    parser.add_argument("--quick", action="store_true", help="two rounds of hardly any training, to try the script")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds = 2
    return options


def _measure(task: Task, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    dense = task.dense(seed)
    tune = {**task.tuning, "epochs": options.epochs, "batches": task.batches, "loss_fn": task.loss}
    if options.quick:
        tune |= {"epochs": None, "steps": 2, "warmup": 0}
    found = graphprune.prune_iteratively(
        dense,
        task.example_inputs,
        rounds=options.rounds,
        params=1 / TIMES,
        max_ratio=0.98,
        calibration=task.calibration(128, seed),
        evaluate=task.evaluate,
        tune=tune | {"distill": TEACHING, "seed": seed, "progress": False},
        seed=seed,
    )
    return _compared(task, dense, found.model.eval()) | {"seed": seed, "rounds": str(found)}


def _compared(task: Task, dense: nn.Module, slim: nn.Module) -> dict[str, Any]:
    costs = [graphprune.trace(model, task.example_inputs).cost() for model in (dense, slim)]
    found: dict[str, Any] = {
        "dense_accuracy": task.evaluate(dense),
        "accuracy": task.evaluate(slim),
        "dense_params": costs[0].params,
        "params": costs[1].params,
        "fewer": costs[0].params / costs[1].params,
        "fewer_macs": costs[0].macs / costs[1].macs,
    }
    for size in BATCHES:
        slow, fast = _milliseconds(dense, slim, task.example_inputs, size)
        found |= {f"dense_ms_{size}": slow, f"ms_{size}": fast, f"faster_{size}": slow / fast}
    return found


def _milliseconds(dense: nn.Module, slim: nn.Module, image: torch.Tensor, size: int) -> list[float]:
    images = image.expand(size, -1, -1, -1).contiguous()
    with torch.inference_mode():
        return interleaved([lambda: dense(images), lambda: slim(images)], repeats=20)


def _medians(results: list[dict[str, Any]]) -> dict[str, float]:
    names = [name for name, value in results[0].items() if isinstance(value, int | float) and name != "seed"]
    return {name: statistics.median(r[name] for r in results) for name in names}


def _table(results: list[dict[str, Any]]) -> Table:
    times = [f"ms, batch {size}" for size in BATCHES]
    columns = ("accuracy", "parameters", "times fewer", "times fewer MACs", *times, *("times faster",) * len(BATCHES))
    made = table(f"{NETWORK}: {TIMES} times fewer parameters", "seed", *columns)
    for result in (*results, _medians(results) | {"seed": "median"}):
        row(made, *_cells(result), style="bold" if result["seed"] == "median" else "")
    return made


def _cells(r: dict[str, Any]) -> list[str]:
    return [
        str(r["seed"]),
        f"{r['dense_accuracy']:.2%} → {r['accuracy']:.2%}",
        f"{r['dense_params'] / 1e6:.2f} M → {r['params'] / 1e6:.3f} M",
        f"{r['fewer']:.1f}",
        f"{r['fewer_macs']:.1f}",
        *(f"{r[f'dense_ms_{size}']:.1f} → {r[f'ms_{size}']:.2f}" for size in BATCHES),
        *(f"{r[f'faster_{size}']:.1f}" for size in BATCHES),
    ]


if __name__ == "__main__":
    sys.exit(main())
