"""Does ``allocation="searched"`` beat the best one-shot allocation with the same criterion, budget, samples and repair?

Every network is pruned by Wanda to a share of its MACs with 128 samples without labels, and repaired; the table has the
medians over draws (the seed of the dense network and of the samples), and how many candidates the time allowed. Each
run is noted in ``results/searched`` as it ends, and is not repeated while its note is there.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

import graphprune
from benchmarks.common import RESULTS, quiet_one_thread, row, table, wide_console, write_json
from benchmarks.notes import Notes
from benchmarks.tasks import TASKS, Task

NETWORKS = {"text-gpt": 45, "digits-vit": 15, "sentences-minilm": 600}
"""And the seconds for a search."""
SHARES = (0.5, 0.35)
ALLOCATIONS = ("global", "uniform", "isomorphic", "searched")
SAMPLES, IMPORTANCE = 128, "wanda"


def main(arguments: list[str] | None = None) -> int:
    """Print a table, write ``results/searched.json``; 1 if a one-shot allocation is better somewhere."""
    options = _options(arguments)
    quiet_one_thread()
    found = [_medians(TASKS[name](), share, options) for name in options.networks for share in options.shares]
    _show(found)
    settings = {"samples": SAMPLES, "importance": IMPORTANCE, "draws": options.draws}
    write_json("searched.json", settings | {"networks": found})
    return 0 if all(one["ahead"] for one in found) else 1


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=tuple(NETWORKS), metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of the MACs (default: 0.5 0.35)")
    parser.add_argument("--draws", type=int, default=5, help="seeds 0, 1, ... (default: 5)")
    return parser.parse_args(arguments)


def _medians(task: Task, share: float, options: argparse.Namespace) -> dict[str, Any]:
    """The median of each allocation, and whether the search is ahead."""
    notes = Notes(RESULTS / "searched" / f"{task.name}-{share}.jsonl")
    limit, draws = float(NETWORKS[task.name]), range(options.draws)
    runs = [_run(task, share, seed, name, limit, notes) for seed in draws for name in ALLOCATIONS]
    middle = {
        name: statistics.median(run["metric"] for run in runs if run["allocation"] == name) for name in ALLOCATIONS
    }
    sign = 1 if task.higher else -1
    best = max(middle[name] * sign for name in ALLOCATIONS if name != "searched")
    searches = [run for run in runs if run["allocation"] == "searched"]
    return {
        "network": task.name,
        "metric": task.fine_metric,
        "share": share,
        "time_limit": limit,
        "left": max(run["left"] for run in runs),
        "medians": middle,
        "candidates": statistics.median(run["candidates"] for run in searches),
        "seconds": statistics.median(run["seconds"] for run in searches),
        "ahead": middle["searched"] * sign > best,
    }


def _run(task: Task, share: float, seed: int, allocation: str, limit: float, notes: Notes) -> dict[str, Any]:
    key = {"allocation": allocation, "seed": seed, "time_limit": limit if allocation == "searched" else None}
    return notes.once(key, lambda: _measured(task, share, seed, allocation, limit))


def _measured(task: Task, share: float, seed: int, allocation: str, limit: float) -> dict[str, Any]:
    model, batches = task.dense(seed), task.calibration(SAMPLES, seed)
    graph = graphprune.trace(model, task.example_inputs)
    more: dict[str, Any] = {"candidates": 10**6, "time_limit": limit, "seed": seed} if allocation == "searched" else {}
    began = time.monotonic()
    plan = graph.plan(macs=share, importance=IMPORTANCE, calibration=batches, allocation=allocation, **more)
    seconds = time.monotonic() - began
    slim = plan.apply(model)
    graphprune.repair(slim, model, plan, batches)
    before, after = plan.costs["macs"]
    return {
        "metric": task.evaluate_finely(slim),
        "left": after / before,
        "seconds": seconds,
        "candidates": plan.requested.get("candidates tried", 1),
    }


def _show(found: Sequence[dict[str, Any]]) -> None:
    title = f"Searched, and one-shot: {IMPORTANCE}, repaired with {SAMPLES} samples"
    made = table(title, "network", "metric", "MACs", *ALLOCATIONS, "candidates", "seconds", "limit", "ahead", left=2)
    for one in found:
        cells = [f"{one['medians'][name]:.4f}" for name in ALLOCATIONS]
        ahead = "yes" if one["ahead"] else "no"
        counts = [f"{one['candidates']:.0f}", f"{one['seconds']:.0f}", f"{one['time_limit']:.0f}", ahead]
        row(made, one["network"], one["metric"], one["share"], *cells, *counts)
    wide_console().print(made)


if __name__ == "__main__":
    sys.exit(main())
