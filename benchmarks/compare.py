"""Who prunes better? graphprune, Torch-Pruning and torch-kirigami with the same MACs, samples and training.

graphprune enters as it is by default: ``prune_model`` with 128 training samples without labels. The others may use
their criteria and rankings, and these samples with labels where a criterion asks for them. Which ones they enter with
is decided without the test split: a network of a seed of its own is trained without some of the training data, by
which all methods are judged at once, and the four best criteria of each library after training too. The method that is
best at once and the one that is best after training then run on the other seeds, which are judged by the test split;
the table has the medians.

Batch norms of the other libraries' networks are re-estimated with the same samples, as any user would do. Their
*structure with our repair* is the same channels, taken out of the dense network and repaired by graphprune.

Digits are put at nine places (:attr:`Task.fine_metric`), for where they are nearly every network reads nearly all of
them. All networks are counted by torch's own counter, products of attention too, and tuned by the same function with
the same settings and seeds. Where a library fails, or takes longer than the limit (``over 600 s``), this stands in its
place.

It takes hours. Each run is noted in ``results/compare`` as it ends, and is not repeated while its note is there: a
script that was stopped goes on, and two with different ``--only`` share the work. ``--libraries graphprune
Torch-Pruning`` leaves the slow one for later. Notes say of which tree of the library they are.
"""

from __future__ import annotations

import argparse
import copy
import signal
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from rich.table import Table
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import graphprune
from benchmarks.common import RESULTS, quiet_one_thread, row, table, tree, wide_console, write_json
from benchmarks.libraries import METHODS, Case, Method, TooLong, UnreadableStructureError, plan_like
from benchmarks.libraries.outcomes import (
    OURS,
    SCREENING,
    WHEN,
    WITH_OUR_REPAIR,
    Outcome,
    as_data,
    cells,
    chosen,
    lead,
    medians,
    ordered,
    said_errors,
)
from benchmarks.notes import Notes
from benchmarks.tasks import TASKS, Task
from benchmarks.tasks.task import SplitTask

NETWORKS = ("digits-resnet20", "text-gpt", "digits-vit", "digits-mobilenetv2", "digits-resnet18")
"""The cheap ones first."""
LIBRARIES = tuple(dict.fromkeys(method.library for method in METHODS))
SHARES = (0.5, 0.25)
SAMPLES = 128
FINALISTS = 4
"""Criteria of a library that are trained in the screening."""
OVER = "over "
"""How the error of a run begins that took longer than the limit."""


def main(arguments: list[str] | None = None) -> int:
    """Print a table for each network and share, write ``results/compare.json``; 1 if another library is better."""
    options = _options(arguments)
    quiet_one_thread()
    console = wide_console()
    behind = False
    for name in (name for name in NETWORKS if options.only in name):
        task = TASKS[name](options.quick)
        assert isinstance(task, SplitTask)
        dense = [_dense(task, seed) for seed in range(options.seeds)]
        for share in options.shares:
            with console.status(f"{name}, {share:.0%} of the MACs"):
                outcomes = _compared(task, share, options)
            console.print(_table(task, share, statistics.median(dense), outcomes))
            leads = [lead(outcomes, other, when, task.higher) for other in LIBRARIES if other != OURS for when in WHEN]
            behind |= any(one is not None and one < 0 for one in leads)
    if options.quick:
        return 0
    settings = {"torch": torch.__version__, "samples": SAMPLES, "screening_seed": SCREENING}
    write_json("compare.json", settings | {"networks": _noted()})
    return 1 if behind else 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="dense networks of each kind (default: 5)")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of the MACs (default: 0.5 0.25)")
    parser.add_argument("--limit", type=int, default=600, help="seconds that pruning may take (default: 600)")
    parser.add_argument(
        "--quick", action="store_true", help="hardly trained networks and few methods, to try the script"
    )
    parser.add_argument("--libraries", nargs="+", choices=LIBRARIES, default=LIBRARIES, help="only these")
    parser.add_argument("--only", default="", metavar="TEXT", help="only the networks whose name contains this")
    options = parser.parse_args(arguments)
    if options.quick:
        options.limit = min(options.limit, 20)
    return options


# ---------------------------------------------------------------- measuring


def _compared(task: SplitTask, share: float, options: argparse.Namespace) -> list[Outcome]:
    """The screening, and then the seeds with the methods that were chosen."""
    notes = _notes(task.name, share, options.quick)
    samples = 8 if options.quick else SAMPLES
    methods = [m for m in _entered(options.quick) if m.library in options.libraries]
    validating = task.validating()
    case = Case(validating, validating.dense(SCREENING), share, samples, SCREENING)
    found = [_run(m, case, options.limit, notes, False) for m in methods]
    finalists = {(o.library, o.method) for o in _finalists(task, found)}
    found += [_run(m, case, options.limit, notes, True) for m in methods if (m.library, m.name) in finalists]
    enter = {(name, m) for name in options.libraries for m in chosen(found, name, task.higher).values()}
    for seed in range(options.seeds):
        case = Case(task, task.dense(seed), share, samples, seed, case.hints)
        found += [_run(m, case, options.limit, notes) for m in methods if (m.library, m.name) in enter]
    return found


def _entered(quick: bool) -> Sequence[Method]:
    """All methods; quickly, the first one of each library."""
    first = {method.library: method for method in reversed(METHODS)}
    return list(first.values()) if quick else METHODS


def _finalists(task: Task, screened: Sequence[Outcome]) -> Iterator[Outcome]:
    """Of each library the criteria that are best at once, each in its best scope."""
    for library in LIBRARIES:
        best: dict[str, Outcome] = {}
        for one in ordered([o for o in screened if o.library == library], "once", task.higher):
            best.setdefault(one.method.split()[0], one)
        yield from list(best.values())[:FINALISTS]


def _run(method: Method, case: Case, limit: int, notes: Notes, finalist: bool | None = None) -> Outcome:
    """What a method does, now or when it was noted. In the screening only finalists are trained, and no test is made.

    Args:
        finalist: None: this is no screening.
    """
    name = case.task.name.removesuffix("-validation")
    key = {"network": name, "share": case.share, "library": method.library, "method": method.name, "seed": case.seed}
    key |= {"finalist": bool(finalist)}
    found = notes.once(key, partial(_measured, method, case, limit, finalist))
    case.hints.update(found.get("hints", {}))
    return Outcome(**found)


def _measured(method: Method, case: Case, limit: int, finalist: bool | None) -> dict[str, Any]:
    torch.manual_seed(case.seed)
    try:
        with _limited(limit):
            slim = method.prune(case)
    except TooLong as error:
        return {"error": str(error), "tree": tree()}
    except Exception as error:  # a library's failure is a result
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}", "tree": tree()}
    found = {"left": case.left(slim), "params": sum(p.numel() for p in slim.parameters())}
    if method.library != OURS:
        found |= _others(case, slim, finalist)
    found["once"] = case.task.evaluate_finely(slim)
    if finalist is not False:
        found["tuned"] = _tuned(case, slim)
    return {**found, "hints": dict(case.hints), "tree": tree()}


def _others(case: Case, slim: nn.Module, finalist: bool | None) -> dict[str, Any]:
    """Give another library's network what any user would; beside it, what it is without that, and with our repair."""
    found = {} if finalist is not None else {"bare": case.task.evaluate_finely(slim), **_with_our_repair(case, slim)}
    if any(isinstance(module, _BatchNorm) for module in slim.modules()):
        graphprune.reestimate_batch_norm(slim, case.unlabeled)
    return found


def _with_our_repair(case: Case, slim: nn.Module) -> dict[str, Any]:
    try:
        plan = plan_like(case.dense, slim, case.example)
    except UnreadableStructureError as error:
        return {"unread": str(error)}
    mine = plan.apply(case.dense)
    graphprune.repair(mine, case.dense, plan, case.unlabeled)
    return {"ours_once": case.task.evaluate_finely(mine), "ours_tuned": _tuned(case, mine)}


def _tuned(case: Case, slim: nn.Module) -> float:
    """What a copy comes to that is trained."""
    trained = copy.deepcopy(slim).requires_grad_(True)
    case.task.tune(trained, case.seed)
    return case.task.evaluate_finely(trained)


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    """Raise TooLong when it takes longer, by the process's own time: what else the machine does is not counted."""

    def stop(*_: object) -> None:
        raise TooLong(f"{OVER}{seconds} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _dense(task: Task, seed: int) -> float:
    """The fine metric of a dense network, now or when it was noted."""
    notes = Notes(None if task.quick else RESULTS / "compare" / f"{task.name}-dense.jsonl")
    return float(notes.once({"seed": seed}, lambda: {"fine": task.evaluate_finely(task.dense(seed))})["fine"])


def _notes(network: str, share: float, quick: bool = False) -> Notes:
    return Notes(None if quick else RESULTS / "compare" / f"{network}-{share}.jsonl")


def _noted() -> dict[str, Any]:
    """All that was measured so far, by network."""
    found = {}
    for name in NETWORKS:
        outcomes = [Outcome(**one) for share in SHARES for one in _notes(name, share).found]
        dense = Notes(RESULTS / "compare" / f"{name}-dense.jsonl").found
        if any(not one.screening for one in outcomes):
            found[name] = {"higher": TASKS[name]().higher, "dense": dense, "outcomes": as_data(outcomes)}
    return found


# ---------------------------------------------------------------- reporting


def _table(task: Task, share: float, dense: float, outcomes: Sequence[Outcome]) -> Table:
    title = f"{task.name}, {share:.0%} of the MACs: {task.fine_metric}, {'more' if task.higher else 'less'} is better"
    columns = ("MACs left", "parameters", "as the library leaves it", *WHEN, *("our repair, " + when for when in WHEN))
    made = table(title, "library", "criterion", *columns, left=2)
    row(made, "dense", "", "100.0%", "", "", f"{dense:.4f}")
    for one in medians(outcomes):
        row(made, one.library, one.method, *_cells(one), style="bold" if one.library == OURS else "")
    entered = (f"{name}: {cells(outcomes, name, task.higher)}" for name in LIBRARIES)
    made.caption = "\n".join((*entered, *said_errors(outcomes)))
    made.caption_justify = "left"
    return made


def _cells(one: Outcome) -> list[str]:
    if one.error:
        return ["", "", "", one.error if one.error.startswith(OVER) else "failed"]
    figures = (getattr(one, name) for name in ("bare", *WHEN, *WITH_OUR_REPAIR))
    return [f"{one.left:.1%}", f"{one.params:,.0f}", *("" if value is None else f"{value:.4f}" for value in figures)]


if __name__ == "__main__":
    sys.exit(main())
