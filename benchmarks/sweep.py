"""``make sweep``: prune every model of the zoos by half, train each a step, and prove it right.

A model has *passed* when the slim model ran forward and backward in train mode at batch 1 and 4, and its
largest difference from the masked original, in float64, is at most 1e-10 of the largest output, and when
tracing it again after an ordinary forward gave the same plan. It is *partly* pruned when it did, but one
reason keeps more than a tenth of its parameters from losing anything (those as wide as an output or a
vocabulary aside), and *frozen* when less than a third of the parameters that the ratio asks for went.
Else it failed: *refused* by an error that graphprune raises on purpose, *crashed* by another one or too
slow, *hot* where only the plan after a forward differs, *wrong* where the slim model does. A model whose
library is not installed is *skipped*.

Every model has a process of its own, so that its memory comes back and a hang ends at ``--timeout``. A
model whose result is on disk is not run again, so that an interrupted sweep goes on where it stopped;
``--fresh`` forgets all results.

In the tables, *removed* and *prunable* are fractions of the parameters: gone, and in tensors that lose
channels. *Unseen* are parameters that the compared output does not depend on, such as auxiliary heads.
"""

from __future__ import annotations

import argparse
import faulthandler
import fnmatch
import json
import multiprocessing
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn
from rich.table import Table

from benchmarks.common import RESULTS, quiet_one_thread, row, table, wide_console, write_json
from benchmarks.trial import RATIO, TOLERANCE, Clock, trial
from benchmarks.zoos import HEAVY, SAMPLE, ZOOS, third_party_zoo, zoo
from benchmarks.zoos.common import NotInstalled
from graphprune.errors import InputError, PlanError, TraceError

STYLES = {
    "passed": "",
    "skipped": "dim",
    "partly": "yellow",
    "frozen": "yellow",
    "refused": "red",
    "hot": "red",
    "crashed": "red",
    "wrong": "red",
}
"""What became of a model, from good to bad."""

FAILED = frozenset(("refused", "hot", "crashed", "wrong"))

REFUSALS = (InputError, TraceError, PlanError)

Job = tuple[str, str]
"""A zoo and a model's name."""


def main() -> int:
    """Run what has no result yet, print and write all results; 1 if a model failed."""
    options = _options()
    if options.fresh:
        shutil.rmtree(RESULTS / "sweep", ignore_errors=True)
    jobs = list(_jobs(options))
    if options.here:
        for job in jobs:
            _worker(*job, options.timeout)
    else:
        _run([job for job in jobs if not _path(job).exists()], options.jobs, options.timeout)
    results = [json.loads(_path(job).read_text()) for job in jobs]
    console = wide_console()
    for name in options.zoo:
        console.print(_table(name, [result for result in results if result["zoo"] == name]))
        console.print(_share(name, [result for result in results if result["zoo"] == name]))
    if not options.only and not options.sample:
        write_json("sweep.json", _summary(results, options.zoo))
    return 1 if any(result["status"] in FAILED for result in results) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", action="append", choices=ZOOS, help="only this zoo (may be repeated)")
    parser.add_argument("--only", metavar="PATTERN", help="only models that match, such as 'vit_*'")
    parser.add_argument("--sample", action="store_true", help="a fixed sample of each zoo")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default: 2)")
    parser.add_argument("--timeout", type=float, default=900, help="seconds for one model (default: 900)")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    parser.add_argument("--here", action="store_true", help="run in this process, for a debugger")
    options = parser.parse_args()
    options.zoo = options.zoo or list(ZOOS)
    return options


def _jobs(options: argparse.Namespace) -> Iterator[Job]:
    for name in options.zoo:
        for model in SAMPLE[name] if options.sample else zoo(name):
            if options.only is None or fnmatch.fnmatch(model, options.only):
                yield name, model


def _path(job: Job) -> Path:
    return RESULTS / "sweep" / job[0] / f"{job[1]}.json"


# ---------------------------------------------------------------- processes


def _run(jobs: list[Job], limit: int, timeout: float) -> None:
    """Light models several at a time, then the heavy ones alone."""
    context = multiprocessing.get_context("forkserver")
    # Imported once by the server and inherited by every process, which then starts in milliseconds.
    libraries = third_party_zoo.modules(model for zoo_name, model in jobs if zoo_name == "third_party")
    context.set_forkserver_preload(["torch", "torchvision", "timm", "transformers", "scipy.optimize", *libraries])
    light = [job for job in jobs if job[1] not in HEAVY]
    heavy = [job for job in jobs if job[1] in HEAVY]
    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=wide_console(), transient=True) as progress:
        task = progress.add_task("sweep", total=len(jobs))
        for part, at_a_time in ((light, limit), (heavy, 1)):
            for job in _finished(context, part, at_a_time, timeout):
                progress.update(task, advance=1, description=job[1])


def _finished(context: Any, jobs: list[Job], limit: int, timeout: float) -> Iterator[Job]:
    """Run jobs, ``limit`` at a time; yields each when its result is on disk."""
    waiting, running = list(reversed(jobs)), dict[Job, tuple[BaseProcess, float]]()
    while waiting or running:
        while waiting and len(running) < limit:
            job = waiting.pop()
            process = context.Process(target=_worker, args=(*job, timeout), daemon=True)
            process.start()
            running[job] = process, time.monotonic()
        time.sleep(0.05)
        for job, (process, started) in list(running.items()):
            if time.monotonic() - started > timeout and process.is_alive():
                process.kill()
                process.join()
                _write(job, _ended(job, f"TimeoutError: not done after {timeout:.0f} s", traceback=_stack(job)))
            if not process.is_alive():
                if not _path(job).exists():
                    _write(job, _ended(job, f"the process ended with exit code {process.exitcode}"))
                del running[job]
                yield job


def _worker(zoo_name: str, name: str, timeout: float) -> None:
    """Run one model and write its result, whatever happens."""
    quiet_one_thread()
    job, clock = (zoo_name, name), Clock()
    stack = _stack_path(job)
    stack.parent.mkdir(parents=True, exist_ok=True)
    try:
        with stack.open("w") as file:
            faulthandler.dump_traceback_later(max(timeout - 2, 1), file=file)
            result = trial(zoo_name, name, clock)
    except NotInstalled as error:
        result = _ended(job, str(error), "skipped")
    except Exception as error:
        text = "".join(traceback.format_exception(error))[-4000:]
        status = "refused" if isinstance(error, REFUSALS) else "crashed"
        result = _ended(job, f"{type(error).__name__}: {error}", status, stage=clock.stage, traceback=text)
    finally:
        faulthandler.cancel_dump_traceback_later()
    _write(job, result)


def _ended(job: Job, error: str, status: str = "crashed", **more: Any) -> dict[str, Any]:
    """The result of a model of which nothing came."""
    return {"zoo": job[0], "model": job[1], "status": status, "error": error} | more


def _stack_path(job: Job) -> Path:
    return _path(job).with_suffix(".stack")


def _stack(job: Job) -> str:
    """Where a process was shortly before its time was over."""
    return _stack_path(job).read_text() if _stack_path(job).exists() else ""


def _write(job: Job, result: dict[str, Any]) -> None:
    path = _path(job)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=2) + "\n")
    partial.replace(path)  # a result is there whole or not at all
    _stack_path(job).unlink(missing_ok=True)


# ---------------------------------------------------------------- reporting


def _table(name: str, results: list[dict[str, Any]]) -> Table:
    counts = Counter(result["status"] for result in results)
    said = ", ".join(f"{counts[status]} {status}" for status in STYLES if counts[status])
    made = table(
        f"{name}: {said}",
        "model",
        "status",
        "removed",
        "prunable",
        "difference",
        "unseen",
        "seconds",
        "",
        left=2,
    )
    made.columns[-1].justify = "left"
    made.columns[-1].max_width = 60
    for result in sorted(results, key=lambda r: list(STYLES).index(r["status"]), reverse=True):
        row(made, *_cells(result), style=STYLES[result["status"]])
    return made


def _share(name: str, results: list[dict[str, Any]]) -> str:
    """How many failed or stayed mostly frozen, of those that ran."""
    ran = [result for result in results if result["status"] != "skipped"]
    bad = sum(result["status"] in FAILED | {"frozen"} for result in ran)
    return f"{name}: {len(ran)} ran; {bad} failed or mostly frozen, {bad / max(len(ran), 1):.1%}"


def _cells(result: dict[str, Any]) -> tuple[str, ...]:
    head = result["model"], result["status"]
    if "parameters" not in result:
        stage = f"{result['stage']}: " if "stage" in result else ""
        return (*head, *[""] * 5, (stage + " ".join(result["error"].split()))[:240])
    old, new = result["parameters"]
    numbers = (
        f"{1 - new / old:.1%}",
        f"{result['prunable']:.1%}",
        f"{result['relative']:.0e}",
        f"{result['unseen']:.1%}",
    )
    return (*head, *numbers, f"{sum(result['seconds'].values()):.1f}", _remark(result))


def _remark(result: dict[str, Any]) -> str:
    if result["error"]:
        return result["error"][:240]
    stuck = [f"{share:.1%}: {why}" for why, share in result["stuck"].items() if share >= 0.0005]
    trained = [f"batch {size} {said}" for size, said in result["train"].items() if said != "ran"]
    return "; ".join([*stuck, *trained])[:240]


def _summary(results: list[dict[str, Any]], zoos: list[str]) -> dict[str, Any]:
    """The new results of these zoos, and of the others what was written before."""
    path = RESULTS / "sweep.json"
    earlier = json.loads(path.read_text())["models"] if path.exists() else []
    results = [{"torch": torch.__version__} | result for result in results]
    results = [result for result in earlier if result["zoo"] not in zoos] + results
    counts = {name: Counter(r["status"] for r in results if r["zoo"] == name) for name in ZOOS}
    rows = [{key: value for key, value in result.items() if key != "traceback"} for result in results]
    return {
        "ratio": RATIO,
        "tolerance": TOLERANCE,
        "counts": counts,
        "models": rows,
    }


if __name__ == "__main__":
    sys.exit(main())
