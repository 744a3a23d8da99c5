"""Who prunes better? graphprune, Torch-Pruning and torch-kirigami with the same MACs, samples and training.

Each library may use its criteria and rankings, and 128 training samples (with labels, where a criterion asks
for them). Which ones it enters with is decided on a seed of its own: the one that is best at once and the one that is
best after tuning, for each network and share of MACs. These then run on the other seeds, and the table has the medians.
Digits are put at nine places (:attr:`Task.fine_metric`), for where they are nearly every network reads nearly all of
them. All networks are counted by torch's own counter, and tuned by the same function with the same settings and seeds.
Where a library fails, or takes longer than the limit (``over 600 s``), this stands in its place.

It takes hours. Each run is noted in ``results/compare`` as it ends, and is not repeated while its note is there: a
script that was stopped goes on, and two with different ``--only`` share the work. ``--libraries graphprune
Torch-Pruning`` leaves the slow one for later.

The runs of torch-kirigami that are noted were made with its caches enlarged and its answers to repeated questions kept,
which changes no plan and makes one several times faster. Now it is called as it is: a run that is made anew may be over
the limit.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from rich.table import Table
from torch import nn

from benchmarks.common import RESULTS, quiet_one_thread, row, table, wide_console, write_json
from benchmarks.libraries import METHODS, Case, Method, TooLong
from benchmarks.notes import Notes
from benchmarks.tasks import TASKS, Task

NETWORKS = ("digits-resnet20", "digits-mobilenetv2", "digits-vit", "digits-resnet18", "text-gpt-2kv")
LIBRARIES = tuple(dict.fromkeys(method.library for method in METHODS))
SHARES = (0.5, 0.25)
SAMPLES = 128
SCREENING = 1000
"""The seed on which libraries choose their methods; no other run has it."""


OVER = "over "
"""How the error of a run begins that took longer than the limit."""
FINE, PLAIN = ("once", "tuned"), ("plain_once", "plain_tuned")
"""What a result has of a task's fine metric, by which networks are compared, and of its metric."""


@dataclass(frozen=True)
class Result:
    """What one method did to one dense network.

    Attributes:
        share: asked for; ``left`` is what there is, as fractions of the dense network's MACs.
        once, tuned: the fine metric before and after training; None where it failed, and ``error`` says why.
        plain_once, plain_tuned: the metric itself.
        hints: what the case's were when it was done.
    """

    network: str
    share: float
    library: str
    method: str
    seed: int
    left: float | None = None
    params: int | None = None
    once: float | None = None
    tuned: float | None = None
    plain_once: float | None = None
    plain_tuned: float | None = None
    error: str = ""
    hints: dict[str, float] = field(default_factory=dict)


def main(arguments: list[str] | None = None) -> int:
    """Print a table for each network and share, write ``results/compare.json``; 1 if another library is better."""
    options = _options(arguments)
    quiet_one_thread()
    console = wide_console()
    results: list[Result] = []
    dense: dict[str, list[tuple[float, float]]] = {}
    wanted = [(name, share) for name in NETWORKS if options.only in name for share in options.shares]
    for name, share in wanted:
        with console.status(f"{name}, {share:.0%} of the MACs"):
            task = TASKS[name](options.quick)
            dense[name] = dense.get(name) or [_judged(task, task.dense(seed)) for seed in range(options.seeds)]
            results += _compared(task, share, options)
        console.print(_table(task, share, statistics.median(fine for fine, _ in dense[name]), results))
    for measure in (FINE, PLAIN):
        console.print(_summary(wanted, dense, results, measure))
    if not options.only and not options.quick and set(options.libraries) == set(LIBRARIES):
        settings = {"torch": torch.__version__, "samples": SAMPLES, "screening_seed": SCREENING}
        write_json("compare.json", settings | {"dense": dense, "results": [asdict(r) for r in results]})
    return 0 if options.quick or all(_ahead(TASKS[n](), share, results) for n, share in wanted) else 1


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


def _compared(task: Task, share: float, options: argparse.Namespace) -> list[Result]:
    """The screening, and then the seeds with the methods that were chosen."""
    notes = Notes(None if options.quick else RESULTS / "compare" / f"{task.name}-{share}.jsonl")
    case = Case(task, task.dense(SCREENING), share, 8 if options.quick else SAMPLES, SCREENING)
    methods = [m for m in _entered(options.quick) if m.library in options.libraries]
    screened = [_run(method, case, options.limit, notes) for method in methods]
    chosen = {(r.library, r.method) for r in _best(task, screened)}
    found = list(screened)
    for seed in range(options.seeds):
        case = Case(task, task.dense(seed), share, case.samples, seed, case.hints)
        found += [_run(m, case, options.limit, notes) for m in METHODS if (m.library, m.name) in chosen]
    return found


def _entered(quick: bool) -> Sequence[Method]:
    """All methods; quickly, the first one of each library."""
    first = {method.library: method for method in reversed(METHODS)}
    return list(first.values()) if quick else METHODS


def _best(task: Task, screened: Sequence[Result]) -> Iterator[Result]:
    """Of each library the method that is best at once, and the one that is best after tuning; of equals, by the other.

    One may be both.
    """
    for library in dict.fromkeys(r.library for r in screened):
        worked = [r for r in screened if r.library == library and not r.error]
        for when, other in (FINE, FINE[::-1]) if worked else ():
            yield _order(task, _order(task, worked, other), when)[0]


def _order(task: Task, results: Sequence[Result], when: str) -> list[Result]:
    """The best first; equals stay as they are."""
    return sorted(results, key=lambda r: getattr(r, when), reverse=task.higher)


def _run(method: Method, case: Case, limit: int, notes: Notes) -> Result:
    key = {"network": case.task.name, "share": case.share, "library": method.library}
    key |= {"method": method.name, "seed": case.seed}
    found = notes.once(key, lambda: _measured(method, case, limit))
    case.hints.update(found.get("hints", {}))
    return Result(**found)


def _measured(method: Method, case: Case, limit: int) -> dict[str, Any]:
    torch.manual_seed(case.seed)
    try:
        with _limited(limit):
            slim = method.prune(case)
    except TooLong as error:
        return {"error": str(error)}
    except Exception as error:  # a library's failure is a result
        return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    left = case.left(slim)
    once, plain_once = _judged(case.task, slim)
    slim.requires_grad_(True)
    case.task.tune(slim, case.seed)
    tuned, plain_tuned = _judged(case.task, slim)
    found = {"left": left, "params": sum(p.numel() for p in slim.parameters()), "once": once, "tuned": tuned}
    return found | {"plain_once": plain_once, "plain_tuned": plain_tuned, "hints": dict(case.hints)}


def _judged(task: Task, model: nn.Module) -> tuple[float, float]:
    """The fine metric, and the metric itself."""
    return task.evaluate_finely(model), task.evaluate(model)


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


# ---------------------------------------------------------------- reporting


def medians(results: Sequence[Result], network: str, share: float) -> list[Result]:
    """For each method that was chosen: the medians over the seeds. One that failed on a seed has failed."""
    found: dict[tuple[str, str], list[Result]] = {}
    for r in results:
        if (r.network, r.share) == (network, share) and r.seed != SCREENING:
            found.setdefault((r.library, r.method), []).append(r)
    return [_median(runs) for runs in found.values()]


def _median(runs: Sequence[Result]) -> Result:
    failed = next((r for r in runs if r.error), None)
    if failed is not None:
        return failed
    values = {name: statistics.median(getattr(r, name) for r in runs) for name in ("left", "params", *FINE, *PLAIN)}
    return Result(**{**asdict(runs[0]), **values})


def _ahead(task: Task, share: float, results: Sequence[Result]) -> bool:
    """Is nobody better than graphprune, neither at once nor after tuning?"""
    worked = [r for r in medians(results, task.name, share) if not r.error]
    for when in FINE:
        best = _order(task, worked, when)[:1]
        ours = _order(task, [r for r in worked if r.library == "graphprune"], when)[:1]
        if not ours or getattr(ours[0], when) != getattr(best[0], when):
            return False
    return True


def _table(task: Task, share: float, dense: float, results: Sequence[Result]) -> Table:
    title = f"{task.name}, {share:.0%} of the MACs: {task.fine_metric}, {'more' if task.higher else 'less'} is better"
    made = table(title, "library", "criterion", "MACs left", "parameters", "one-shot", "tuned", left=2)
    row(made, "dense", "", "100.0%", "", f"{dense:.4f}", "")
    for r in medians(results, task.name, share):
        row(made, r.library, r.method, *_cells(r), style="bold" if r.library == "graphprune" else "")
    failed = [r for r in results if (r.network, r.share, r.seed) == (task.name, share, SCREENING) and r.error]
    made.caption = "\n".join(_said(failed)) or None
    made.caption_justify = "left"
    return made


def _summary(
    wanted: Sequence[tuple[str, float]],
    dense: Mapping[str, Sequence[tuple[float, float]]],
    results: Sequence[Result],
    measure: tuple[str, str],
) -> Table:
    """Each library's best median, one-shot and tuned."""
    fine = measure == FINE
    title = f"The best of each library: one-shot / tuned{'' if fine else ', by the plain metric'}"
    made = table(title, "network", "MACs", "dense", *LIBRARIES, left=1)
    for name, share in wanted:
        task, found = TASKS[name](), medians(results, name, share)
        failed = [r for r in results if (r.network, r.share) == (name, share) and r.error]
        cells = [_bests(task, [r for r in found + failed if r.library == library], measure) for library in LIBRARIES]
        middle = statistics.median(pair[0 if fine else 1] for pair in dense[name])
        row(made, name, share, f"{middle:.4f}", *cells)
    return made


def _bests(task: Task, found: Sequence[Result], measure: tuple[str, str]) -> str:
    """Of the runs that worked; if none did, what came of them."""
    worked = [r for r in found if not r.error]
    if not worked:
        return " / ".join(sorted({_outcome(r) for r in found})) or "-"
    return " / ".join(f"{getattr(_order(task, worked, when)[0], when):.4f}" for when in measure)


def _cells(r: Result) -> list[str]:
    if r.error:
        return ["", "", _outcome(r), ""]
    return [f"{r.left:.1%}", f"{r.params:,.0f}", f"{r.once:.4f}", f"{r.tuned:.4f}"]


def _outcome(failed: Result) -> str:
    return failed.error if failed.error.startswith(OVER) else "failed"


def _said(failed: Sequence[Result]) -> list[str]:
    """Each error once, with the methods that it stopped."""
    methods: dict[tuple[str, str], list[Any]] = {}
    for r in failed:
        methods.setdefault((r.library, r.error), []).append(r.method)
    return [f"{library} failed ({'; '.join(names)}): {error}" for (library, error), names in methods.items()]


if __name__ == "__main__":
    sys.exit(main())
