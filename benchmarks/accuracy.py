"""What each criterion keeps of networks that were really trained: without labels and without training.

Each network goes to its share of MACs (:attr:`Task.share`) by each criterion, plain and repaired with
:attr:`Task.samples` unlabeled samples: 128, or 4,096 sentences, which are short. Criteria of a loss get the dense
network's own hard answers for labels. *Gap closed* is (repaired - plain L2) / (dense - plain L2). A draw is another set
of samples; the dense network is the same for all. Medians over the draws, all by the test split, by which nothing is
chosen.

Published networks come from ``make real``. Each run is noted in ``results/accuracy`` as it ends, and is not repeated
while its note is there: a script that was stopped goes on. Notes say of which tree of the library they are; to measure
a criterion anew, delete its lines.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from rich.table import Table
from torch import nn

import graphprune
from benchmarks.common import RESULTS, quiet_one_thread, row, table, tree, wide_console, write_json
from benchmarks.notes import Notes
from benchmarks.tasks import TASKS, Task
from graphprune.importance.criteria import CRITERIA as KNOWN

NETWORKS = (
    "readings-g2pm",
    "phonemes-g2p",
    "voice-silero",
    "speakers-resemblyzer",
    "phonemes-g2p-fa",
    "files-magika",
    "text-gpt",
    "digits-resnet20",
    "pitch-crepe-tiny",
    "sentences-minilm",
    "codes-ddddocr",
    "marks-arabic",
    "lines-ppocr",
)
"""The cheap ones first."""
CRITERIA = ("l2", "wanda", "schur", "taylor", "fisher", "kfac", "obs", "surgeon", "random", "auto")
OF_A_LOSS = ("taylor", "fisher", "kfac", "surgeon")
DENSE, BASE = "dense", "l2"


def main(arguments: list[str] | None = None) -> int:
    """Print a table for each network, write ``results/accuracy.json`` of all that is noted."""
    options = _options(arguments)
    quiet_one_thread()
    console = wide_console()
    for name in options.networks:
        task = TASKS[name](options.quick)
        with console.status(name):
            runs = _runs(task, options)
        console.print(_table(task, runs))
    if not options.quick:
        write_json("accuracy.json", {"networks": _noted()})
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=5, help="of calibration samples (default: 5)")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help="only these")
    parser.add_argument("--criteria", nargs="+", default=CRITERIA, help=f"default: {' '.join(CRITERIA)}")
    parser.add_argument("--quick", action="store_true", help="few samples, and nothing noted, to try the script")
    return parser.parse_args(arguments)


# ---------------------------------------------------------------- measuring


def _runs(task: Task, options: argparse.Namespace) -> list[dict[str, Any]]:
    """What each criterion comes to in each draw, now or when it was noted; the dense network first."""
    notes = _notes(task.name, options.quick)
    dense = task.dense(0)
    found = [notes.once({"criterion": DENSE}, lambda: {"repaired": task.evaluate(dense)})]
    for draw in range(options.draws):
        for criterion in options.criteria:
            key = {"criterion": criterion, "draw": draw}
            found.append(notes.once(key, partial(_run, task, dense, criterion, draw)))
    return found


def _notes(network: str, quick: bool = False) -> Notes:
    return Notes(None if quick else RESULTS / "accuracy" / f"{network}.jsonl")


def _run(task: Task, dense: nn.Module, criterion: str, draw: int) -> dict[str, Any]:
    """The metric of a slim network, plain and repaired, and the seconds that it took; or why there is none."""
    samples = task.calibration(8 if task.quick else task.samples, draw)
    try:
        start = time.perf_counter()
        plan = _plan(task, dense, criterion, draw, samples)
        slim = plan.apply(dense)
        planned = time.perf_counter() - start
        plain = task.evaluate(slim)
        start = time.perf_counter()
        graphprune.repair(slim, dense, plan, samples)
        fitted = time.perf_counter() - start
    except graphprune.GraphpruneError as error:
        return {"error": " ".join(str(error).split()), "tree": tree()}
    seconds = {"planned": round(planned, 2), "fitted": round(fitted, 2)}
    return {"plain": plain, "repaired": task.evaluate(slim), **seconds, "tree": tree()}


def _plan(task: Task, dense: nn.Module, criterion: str, draw: int, samples: list[Any]) -> graphprune.Plan:
    options: dict[str, Any] = {"seed": draw, "importance": criterion}
    if criterion in OF_A_LOSS:
        options |= {"calibration": task.answers(dense, 8 if task.quick else task.samples, draw), "loss_fn": task.loss}
    elif criterion not in KNOWN or KNOWN[criterion].data:
        options |= {"calibration": samples}
    return graphprune.trace(dense, task.example_inputs).plan(macs=task.share, **options)


def _noted() -> dict[str, Any]:
    """All that was measured so far, by network."""
    found = {}
    for name in NETWORKS:
        if runs := _notes(name).found:
            task = TASKS[name]()
            fixed = {"metric": task.metric, "higher": task.higher, "share": task.share, "samples": task.samples}
            found[name] = {**fixed, "runs": runs}
    return found


# ---------------------------------------------------------------- reporting


def medians(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each criterion ``plain``, ``repaired``, ``seconds`` and the gaps closed: ``closed`` and ``least``.

    A criterion that failed in a draw is left out. A gap is of the draw's own L2; there is none where L2 loses nothing.
    """
    (dense,) = (run["repaired"] for run in runs if run["criterion"] == DENSE)
    base = {run["draw"]: run["plain"] for run in runs if run["criterion"] == BASE and "error" not in run}
    found = {DENSE: {"repaired": dense}}
    for name in dict.fromkeys(run["criterion"] for run in runs if run["criterion"] != DENSE):
        mine = [run for run in runs if run["criterion"] == name]
        if not any("error" in run for run in mine):
            found[name] = _median(mine, dense, base)
    return found


def _median(runs: Sequence[Mapping[str, Any]], dense: float, base: Mapping[int, float]) -> dict[str, float]:
    gaps = [
        (run["repaired"] - base[run["draw"]]) / (dense - base[run["draw"]])
        for run in runs
        if base.get(run["draw"], dense) != dense
    ]
    middle = {name: statistics.median(run[name] for run in runs) for name in ("plain", "repaired")}
    seconds = statistics.median(run["planned"] + run["fitted"] for run in runs)
    closed = {"closed": statistics.median(gaps), "least": min(gaps)} if gaps else {}
    return {**middle, "seconds": seconds, "draws": len(runs), **closed}


def failures(runs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Why there is nothing of a criterion."""
    return {run["criterion"]: run["error"] for run in runs if "error" in run}


def _table(task: Task, runs: Sequence[Mapping[str, Any]]) -> Table:
    title = f"{task.name}, MACs {task.share}: {task.metric}, {'more' if task.higher else 'less'} is better"
    made = table(title, "criterion", "plain", "repaired", "gap closed", "least", "draws", "s")
    for name, found in medians(runs).items():
        row(made, name, *cells(found), f"{found.get('seconds', 0.0):.1f}")
    made.caption = "\n".join(f"{name}: {said}" for name, said in failures(runs).items()) or None
    return made


def cells(found: Mapping[str, float]) -> list[str]:
    """What a table has of a criterion's medians: plain, repaired, gap closed, the least of it, and the draws."""
    plain = f"{found['plain']:.4f}" if "plain" in found else ""
    gaps = [f"{found[name]:.0%}" if name in found else "" for name in ("closed", "least")]
    return [plain, f"{found['repaired']:.4f}", *gaps, f"{found['draws']:.0f}" if "draws" in found else ""]


if __name__ == "__main__":
    sys.exit(main())
