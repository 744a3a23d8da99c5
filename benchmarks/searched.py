"""Does ``allocation="searched"`` beat the best one-shot allocation with the same criterion, budget, samples and repair?

Every network is pruned to a share of its MACs with 128 samples (1,024 sentences) without labels, and repaired. In each
draw of samples ``importance="auto"`` chooses the criterion with the first allocation, and the others, the search among
them, get the one that it chose. The table has the medians over the draws that all allocations have, and how many
candidates were tried. Limits of searches, and the times of the others, are in processor seconds: other work on the
machine takes nothing away.

Each run is noted in ``results/searched`` as it ends, and is not repeated while its note is there: a script that was
stopped goes on. ``results/searched.json`` is made of all that is noted.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any
from unittest import mock

import graphprune
from benchmarks.common import RESULTS, quiet_one_thread, row, table, tree, wide_console, write_json
from benchmarks.notes import Notes
from benchmarks.tasks import TASKS, Task

NETWORKS = {"digits-vit": 20, "phonemes-g2p": 40, "text-gpt": 60, "sentences-minilm": 2000}
"""And the processor seconds for a search."""
SAMPLES = {"sentences-minilm": 1024}
"""Where they are not :data:`USUAL`."""
USUAL = 128
SHARES = (0.5, 0.35)
ONE_SHOT = ("global", "uniform", "isomorphic")
SEARCHED = "searched"
ALLOCATIONS = (*ONE_SHOT, SEARCHED)


def main(arguments: list[str] | None = None) -> int:
    """Print a table, write ``results/searched.json``; 1 if a one-shot allocation is better somewhere."""
    options = _options(arguments)
    quiet_one_thread()
    for draw in range(options.draws):
        for name in options.networks:
            for share in options.shares:
                _draw(_task(name), share, draw)
    found = [_medians(_task(name), share) for name in NETWORKS for share in SHARES if _notes(name, share).found]
    found = [one for one in found if one is not None]
    _show(found)
    write_json("searched.json", {"networks": found})
    return 0 if all(one["ahead"] for one in found) else 1


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=tuple(NETWORKS), metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of the MACs (default: 0.5 0.35)")
    parser.add_argument("--draws", type=int, default=5, help="of calibration samples (default: 5)")
    return parser.parse_args(arguments)


@cache
def _task(name: str) -> Task:
    return TASKS[name]()


def _notes(network: str, share: float) -> Notes:
    return Notes(RESULTS / "searched" / f"{network}-{share}.jsonl")


# ---------------------------------------------------------------- measuring


def _draw(task: Task, share: float, draw: int) -> None:
    """Run every allocation, unless it is noted; the first says which criterion the others have."""
    notes = _notes(task.name, share)
    first, *others = ALLOCATIONS
    asked: dict[str, Any] = {"macs": share, "importance": "auto", "allocation": first, "seed": draw}
    chosen = notes.once({"allocation": first, "draw": draw}, partial(_run, task, draw, asked))
    asked |= {"importance": chosen["importance"], "normalize": chosen["normalize"]}
    for name in others:
        key: dict[str, Any] = {"allocation": name, "draw": draw}
        more: dict[str, Any] = {}
        if name == SEARCHED:
            key["time_limit"] = NETWORKS[task.name]
            more = {"candidates": 10**6, "time_limit": float(NETWORKS[task.name])}
        notes.once(key, partial(_run, task, draw, {**asked, "allocation": name, **more}))


def _run(task: Task, draw: int, asked: Mapping[str, Any]) -> dict[str, Any]:
    """What a plan comes to."""
    model, batches = task.dense(0), task.calibration(SAMPLES.get(task.name, USUAL), draw)
    graph = graphprune.trace(model, task.example_inputs)
    with _processor_time():
        began = time.monotonic()
        plan = graph.plan(calibration=batches, **asked)
        seconds = time.monotonic() - began
    slim = plan.apply(model)
    graphprune.repair(slim, model, plan, batches)
    before, after = plan.costs["macs"]
    return {
        "metric": task.evaluate_finely(slim),
        "left": after / before,
        "seconds": round(seconds, 2),
        "candidates": plan.requested.get("candidates tried", 1),
        "importance": plan.requested["importance"],
        "normalize": plan.requested.get("normalize", asked.get("normalize")),
        "tree": tree(),
    }


@contextmanager
def _processor_time() -> Iterator[None]:
    """Let time limits count the processor seconds of this process."""
    with mock.patch.object(time, "monotonic", time.process_time):
        yield


# ---------------------------------------------------------------- reporting


def _medians(task: Task, share: float) -> dict[str, Any] | None:
    """The median of each allocation over the draws that all have, and whether the search is ahead; None: no draw."""
    runs = [run for run in _notes(task.name, share).found if run.get("time_limit") in (None, NETWORKS[task.name])]
    by_draw = {run["draw"]: {one["allocation"]: one for one in runs if one["draw"] == run["draw"]} for run in runs}
    draws = [draw for draw, found in by_draw.items() if found.keys() >= set(ALLOCATIONS)]
    if not draws:
        return None
    runs = [by_draw[draw][name] for draw in draws for name in ALLOCATIONS]
    middle = {
        name: statistics.median(run["metric"] for run in runs if run["allocation"] == name) for name in ALLOCATIONS
    }
    sign = 1 if task.higher else -1
    best = max(middle[name] * sign for name in ONE_SHOT)
    searches = [run for run in runs if run["allocation"] == SEARCHED]
    return {
        "network": task.name,
        "metric": task.fine_metric,
        "share": share,
        "samples": SAMPLES.get(task.name, USUAL),
        "time_limit": NETWORKS[task.name],
        "draws": len(draws),
        "left": max(run["left"] for run in runs),
        "medians": middle,
        "candidates": statistics.median(run["candidates"] for run in searches),
        "seconds": statistics.median(run["seconds"] for run in searches),
        "ahead": middle[SEARCHED] * sign > best,
    }


def _show(found: Sequence[Mapping[str, Any]]) -> None:
    title = "Searched, and one-shot: the criterion that auto chooses, repaired"
    columns = ("network", "metric", "MACs", *ALLOCATIONS, "candidates", "seconds", "limit", "draws", "ahead")
    made = table(title, *columns, left=2)
    for one in found:
        cells = [f"{one['medians'][name]:.4f}" for name in ALLOCATIONS]
        counts = [f"{one['candidates']:.0f}", f"{one['seconds']:.0f}", f"{one['time_limit']:.0f}", one["draws"]]
        row(made, one["network"], one["metric"], one["share"], *cells, *counts, "yes" if one["ahead"] else "no")
    wide_console().print(made)


if __name__ == "__main__":
    sys.exit(main())
