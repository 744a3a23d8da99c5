"""Time and memory from a model to its slim model: ``prune_model`` against Torch-Pruning and torch-kirigami.

graphprune and Torch-Pruning (init + step) run in one process on one thread, A B A B, each time on a fresh copy made
outside the clock, because Torch-Pruning changes the model that it is given. Torch-Pruning is told what it has to be
told: the classifier to leave alone, the number of heads, the layer types, where the output is; graphprune is told
nothing. What takes Torch-Pruning longer than a few seconds it runs once. torch-kirigami (graph, candidates, plan,
application) runs once. Both are stopped when a run takes more processor time than a limit.

Times are processor time, which on one thread is the wall time of a machine that does nothing else. Memory is how far
the resident set grows at most, beside the model.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from rich.table import Table
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import graphprune
from benchmarks.common import (
    call,
    cpu_milliseconds,
    image,
    quiet_one_thread,
    reset_peak,
    resident,
    row,
    table,
    wide_console,
    write_json,
)
from benchmarks.limited import OverLimit, limited
from benchmarks.speed_cases import RATIO, Case, all_cases, classifier_hints, torchvision
from graphprune.planning.translation import Translation

LASTING = 5000.0
"""Milliseconds from which on Torch-Pruning runs once."""


@dataclass
class Runs:
    """Runs of one library: milliseconds of each, the most memory (MB), parameters left (millions), what went wrong."""

    times: list[float] = field(default_factory=list)
    memory: float = 0.0
    parameters: float = 0.0
    error: str = ""

    @property
    def median(self) -> float:
        """Milliseconds."""
        return statistics.median(self.times)

    def measure(self, run: Callable[[], nn.Module], inputs: Any) -> None:
        """Add a run that returns the slim model, which proves able to run."""
        made: list[nn.Module] = []
        try:
            self.times.append(cpu_milliseconds(lambda: made.append(run())))
            self.parameters = _runs_with(made[0], inputs)
        except Exception as error:
            self.error = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"


@dataclass
class Result:
    """What the libraries need for one network of so many megabytes; ``check``: milliseconds of ours that go into
    running the slim model's program."""

    name: str
    operations: int
    megabytes: float
    ours: Runs = field(default_factory=Runs)
    theirs: Runs = field(default_factory=Runs)
    kirigami: Runs = field(default_factory=Runs)
    check: float = 0.0

    @property
    def ratio(self) -> float | None:
        """How many times as long Torch-Pruning took."""
        if not self.ours.times or not self.theirs.times or self.ours.error or self.theirs.error:
            return None
        return self.theirs.median / self.ours.median


def main() -> int:
    """Measure every case, print the tables, write ``results/speed.json``; 1 if graphprune failed on one."""
    options = _options()
    quiet_one_thread()
    cases = [case for case in all_cases() if options.only in case.name]
    console = wide_console()
    _warm_up()
    results = []
    for case in cases:
        with console.status(case.name):
            results.append(_measure(case, options))
        if not options.only:
            write_json("speed.json", _summary(results))
    console.print(_ratio_table(results))
    console.print(_linearity_table(results))
    return 1 if any(result.ours.error for result in results) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7, help="runs of each library (default: 7)")
    parser.add_argument("--budget", type=float, default=180, help="seconds after which a model is not repeated")
    parser.add_argument("--limit", type=int, default=60, help="seconds that a run of Torch-Pruning may take")
    parser.add_argument(
        "--kirigami", type=int, default=60, help="seconds that torch-kirigami may take; 0: leave it out"
    )
    parser.add_argument("--quick", action="store_true", help="two runs of each")
    parser.add_argument("--only", default="", metavar="TEXT", help="only the models whose name contains this")
    options = parser.parse_args()
    if options.quick:
        options.repeats = 2
    return options


# ---------------------------------------------------------------- measuring


def _measure(case: Case, options: argparse.Namespace) -> Result:
    torch.manual_seed(0)
    model, inputs = case.build(), case.inputs()
    result = Result(case.name, _operations(model, inputs), _megabytes(model))
    if options.kirigami:
        result.kirigami = _limited(partial(_kirigami, model, inputs), inputs, options.kirigami)
    result.ours.memory = _limited(partial(_ours, model, inputs), inputs, options.limit).memory
    result.theirs = _limited(partial(_theirs, model, inputs, case.hints), inputs, options.limit)
    lasting = bool(result.theirs.error) or result.theirs.median > LASTING
    if not lasting:
        result.theirs.times.clear()  # what comes after it in one process takes less time
    started = time.perf_counter()
    for _ in range(options.repeats):
        result.ours.measure(partial(_ours, copy.deepcopy(model), inputs), inputs)
        if not lasting:
            result.theirs.measure(partial(_theirs, copy.deepcopy(model), inputs, case.hints), inputs)
        if time.perf_counter() - started > options.budget:
            break
    result.check = _check_time(model, inputs, len(result.ours.times))
    return result


def _check_time(model: nn.Module, inputs: Any, repeats: int) -> float:
    """Milliseconds to check a plan against the program."""
    graph = graphprune.trace(model, inputs)
    plan = graph.plan(RATIO)
    alive = graph.alive(plan.removed)
    times = [cpu_milliseconds(lambda: Translation(graph, plan.skipped).difference(plan, alive)) for _ in range(repeats)]
    return statistics.median(times)


def _ours(model: nn.Module, inputs: Any) -> nn.Module:
    return graphprune.prune_model(model, RATIO, example_inputs=inputs)


def _theirs(model: nn.Module, inputs: Any, hints: Callable[[nn.Module], dict[str, Any]]) -> nn.Module:
    import torch_pruning as tp

    importance = tp.importance.GroupMagnitudeImportance(p=2)
    pruner = tp.pruner.BasePruner(model, inputs, importance=importance, pruning_ratio=RATIO, **hints(model))
    pruner.step()
    return model


def _limited(prune: Callable[[], nn.Module], inputs: Any, seconds: int) -> Runs:
    """One run in a process of its own, which has its own copy of the model."""

    def run() -> Runs:
        runs = Runs()
        _warm_up()  # a new process has no pages of the libraries' files yet
        reset_peak()
        before = resident("VmRSS")
        runs.measure(prune, inputs)
        runs.memory = (resident("VmHWM") - before) / 1e6
        return runs

    try:
        found: Runs = limited(run, seconds)
    except (OverLimit, RuntimeError) as error:
        return Runs(error=str(error))
    return found


def _kirigami(model: Any, inputs: Any) -> nn.Module:
    from torch_kirigami import DependencyGraph, pruning

    args, kwargs = ((), inputs) if isinstance(inputs, dict) else ((inputs,), {})
    pruner = pruning.Pruner(model, graph=DependencyGraph.build(model, args=args, kwargs=kwargs))
    budget = pruning.ChannelRatio(RATIO, scope="local")
    strategy = pruning.Greedy(pruning.GroupMagnitude())
    slim, _ = pruner.apply(pruner.plan(pruner.discover_candidates(), budget=budget, strategy=strategy))
    made: nn.Module = slim
    return made


def _runs_with(model: nn.Module, inputs: Any) -> float:
    """Parameters in millions of a model that proves able to run."""
    with torch.no_grad():
        call(model, inputs)
    return sum(p.numel() for p in model.parameters()) / 1e6


def _megabytes(model: nn.Module) -> float:
    return sum(p.numel() * p.element_size() for p in model.parameters()) / 1e6


def _warm_up() -> None:
    """Imports, caches and code paths that are only built once."""
    model = torchvision("resnet18")
    _ours(model, image())
    _theirs(copy.deepcopy(model), image(), classifier_hints)


class _Counter(TorchDispatchMode):
    calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls += 1
        return func(*args, **(kwargs or {}))


def _operations(model: nn.Module, inputs: Any) -> int:
    """ATen operations of one forward pass (fewer where a fused kernel stands for several)."""
    with torch.no_grad(), _Counter() as counter:
        call(model, inputs)
    return counter.calls


# ---------------------------------------------------------------- reporting


def _ratio_table(results: list[Result]) -> Table:
    names = ("graphprune", "of that the check", "Torch-Pruning", "times faster", "torch-kirigami")
    memory = ("MB", "MB of TP", "M parameters left", "M left by TP")
    made = table("Trace to slim model: milliseconds of processor time (medians), memory", "model", *names, *memory)
    for result in results:
        ratio = "" if result.ratio is None else f"{result.ratio:.2f}"
        times = [_shown(runs) for runs in (result.ours, result.theirs, result.kirigami)]
        sizes = [f"{result.ours.memory:.0f}", f"{result.theirs.memory:.0f}"]
        left = [f"{result.ours.parameters:.2f}", f"{result.theirs.parameters:.2f}"]
        row(made, result.name, times[0], f"{result.check:.0f}", times[1], ratio, times[2], *sizes, *left)
    made.caption = f"geometric mean: {_geometric_mean(results):.1f} times faster"
    return made


def _shown(runs: Runs) -> str:
    return runs.error or (f"{runs.median:.0f}" if runs.times else "")


def _geometric_mean(results: list[Result]) -> float:
    ratios = [result.ratio for result in results if result.ratio is not None]
    return statistics.geometric_mean(ratios) if ratios else float("nan")


def _linearity_table(results: list[Result]) -> Table:
    made = table("Time per operation", "model", "operations", "graphprune, µs", "Torch-Pruning, µs")
    for result in results:
        if result.name.startswith("Llama"):
            both = [_per_operation(runs, result.operations) for runs in (result.ours, result.theirs)]
            row(made, result.name, result.operations, *both)
    return made


def _per_operation(runs: Runs, operations: int) -> str:
    return f"{runs.median * 1e3 / operations:.0f}" if runs.times else ""


def _summary(results: list[Result]) -> dict[str, Any]:
    return {
        "torch": torch.__version__,
        "ratio": RATIO,
        "geometric_mean": _geometric_mean(results),
        "models": [asdict(result) | {"times_faster": result.ratio} for result in results],
    }


if __name__ == "__main__":
    sys.exit(main())
