"""``python -m benchmarks.faults``: break every call and every write at random moments, and see that nothing is lost.

- *errors*: the user's forward, loss, loader or evaluation raises in one of its calls (also for lack of memory);
- *interrupts*: Ctrl-C arrives at a random moment;
- *writes*: the disk is full after some bytes, or nothing may be written there;
- *kills*: the process is killed at a random moment of a write.

After errors and interrupts the user's model must be bit-equal, with the same hooks, mode and flags, and the random
numbers and settings of torch as before; no file may be left over. After a failed write what was there before must be
there, whole.
"""

from __future__ import annotations

import argparse
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from rich.progress import track
from torch import Tensor, nn

import graphprune
from benchmarks.common import RESULTS, quiet_one_thread, read_json, row, table, wide_console, write_json
from benchmarks.fuzz import KINDS
from tests import training_net
from tests.random_networks.checker import Wrong, globals_unchanged, of_torch, snapshot, unchanged


class Deliberate(Exception):
    """What the user's own code raises here."""


class Calls:
    """Counts the calls of the user's code, and raises in one of them."""

    def __init__(self) -> None:
        self.reset()

    @property
    def count(self) -> int:
        return self.calls.qsize()

    def tick(self) -> None:
        self.calls.put(None)  # a number that forward changes would be put back after a trace
        if self.count == self.fails_at:
            raise self.error

    def reset(self, fails_at: int = -1, error: BaseException | None = None) -> None:
        self.calls: SimpleQueue[None] = SimpleQueue()
        self.fails_at, self.error = fails_at, error or Deliberate()


CALLS = Calls()


class Net(nn.Module):
    """Normalization, dropout and a residual sum, so that there are buffers, draws and modes. [n, 6] -> [n, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm, self.drop = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.2)
        self.inner, self.leave = nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        CALLS.tick()
        h = self.norm(self.enter(x)).relu()
        return self.leave(self.drop(h + self.inner(h)))


X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(8) % 3


class Loader:
    """Four batches; each one that is taken counts as a call of the user's code."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(4):
            CALLS.tick()
            yield X, Y


def loss(output: Tensor, target: Tensor) -> Tensor:
    CALLS.tick()
    return nn.functional.cross_entropy(output, target)


def score(model: nn.Module) -> float:
    CALLS.tick()
    with torch.no_grad():
        return float((model.eval()(X).argmax(1) == Y).float().mean())


def net() -> nn.Module:
    torch.manual_seed(0)
    model = Net()
    model.inner.weight.requires_grad_(False)
    return model.train()


def with_data(model: nn.Module, importance: str) -> Any:
    return graphprune.prune_model(
        model, 0.5, X, importance=importance, calibration=Loader(), loss_fn=loss, repair=importance == "wanda"
    )


def planned(model: nn.Module, folder: Path) -> tuple[nn.Module, graphprune.Plan]:
    plan = graphprune.trace(model, X).plan(0.5)
    return plan.apply(model), plan


def verified(model: nn.Module, folder: Path) -> Any:
    slim, plan = planned(model, folder)
    return graphprune.verify(model, slim, plan, X)


def rounds(model: nn.Module, folder: Path) -> Any:
    return graphprune.prune_iteratively(
        model, X, rounds=2, ratio=0.5, tune=lambda slim: score(slim), evaluate=score, checkpoint=folder / "rounds"
    )


JOBS: dict[str, Callable[[nn.Module, Path], Any]] = {
    "prune": lambda model, folder: graphprune.prune_model(model, 0.5, X),
    "prune by gradients": lambda model, folder: with_data(model, "taylor"),
    "prune by activations and repair": lambda model, folder: with_data(model, "wanda"),
    "verify": verified,
    "sensitivity": lambda model, folder: graphprune.trace(model, X).sensitivity(score, (0.5,)),
    "rounds": rounds,
    "measure": lambda model, folder: graphprune.measure(model, X, evaluate=score, repeats=2),
    "zero channels": lambda model, folder: graphprune.zero_channels(model, X),
    "compact": lambda model, folder: graphprune.compact(model, X),
    "report": lambda model, folder: graphprune.write_report(folder / "report.html", graphprune.trace(model, X)),
}
"""What a user does with a model that must stay as it is."""


@dataclass
class Counts:
    """How many faults there were, how many were felt by the caller, and what was changed or lost."""

    tried: int = 0
    felt: int = 0
    wrong: list[str] = field(default_factory=list)


# ---------------------------------------------------------------- errors and interrupts


def check_fault(name: str, folder: Path, expected: type[BaseException], after: float = 0) -> bool:
    """Run a job in which something goes wrong: was it felt? Wrong: something is not as it was before.

    After a time of the processor above 0 a signal comes.
    """
    model = net()
    before, world, threads = snapshot(model), of_torch(), threading.active_count()
    felt = True
    try:
        signal.setitimer(signal.ITIMER_PROF, after)
        JOBS[name](model, made(folder))
        signal.setitimer(signal.ITIMER_PROF, 0)
        felt = False
    except expected:
        pass
    except graphprune.GraphpruneError as error:
        if not isinstance(error.__cause__, expected):
            raise Wrong("another error", f"{type(error).__name__}: {error}") from error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    unchanged(before, model)
    globals_unchanged(world)
    if threading.active_count() > threads:
        raise Wrong("threads", f"{threading.active_count() - threads} are left")
    left = [path.name for path in folder.rglob("*") if "tmp" in path.name or path.name.startswith(".")]
    if left:
        raise Wrong("files", f"{left} are left")
    return felt


def made(folder: Path) -> Path:
    """A new, empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def errors(name: str, folder: Path, count: int, chance: random.Random) -> Counts:
    """Let the user's code raise in ``count`` of its calls."""
    CALLS.reset()
    JOBS[name](net(), made(folder / "dry"))
    calls, found = CALLS.count, Counts()
    for number in range(min(count, calls)):
        kind = (Deliberate("on purpose"), MemoryError(), torch.OutOfMemoryError("on purpose"))[number % 3]
        at = chance.randint(1, calls)
        CALLS.reset(at, kind)
        run = partial(check_fault, name, folder / "error", type(kind))
        attempt(found, f"{type(kind).__name__} in call {at}", run)
        CALLS.reset()
    return found


def interrupts(name: str, folder: Path, count: int, chance: random.Random) -> Counts:
    """Interrupt a job ``count`` times, at random moments."""
    CALLS.reset()
    for _ in range(2):  # the first time modules are imported
        start = time.process_time()
        JOBS[name](net(), made(folder / "timed"))
    took, found = time.process_time() - start, Counts()
    for _ in range(count):
        moment = chance.uniform(0.001, took)
        run = partial(check_fault, name, folder / "interrupt", KeyboardInterrupt, moment)
        attempt(found, f"interrupted after {moment:.3f} of {took:.3f} s", run)
    return found


def attempt(found: Counts, what: str, run: Callable[[], bool]) -> None:
    """Count one fault."""
    found.tried += 1
    try:
        found.felt += run()
    except Wrong as error:
        found.wrong.append(f"{what}: {': '.join(error.args)}"[:300])
    except (Exception, KeyboardInterrupt) as error:
        found.wrong.append(f"{what}: {type(error).__name__}: {error}"[:300])


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


# ---------------------------------------------------------------- writes


WRITERS: dict[str, Callable[[Path], object]] = {
    **{name: kind.write for name, kind in KINDS.items() if name in ("bundle", "checkpoint", "sparse file")},
    "report": lambda folder: graphprune.write_report(folder / "report.html", graphprune.trace(net(), X)),
    "source": lambda folder: graphprune.export_source(graphprune.prune_model(net(), 0.5, X), folder / "source"),
    "loader": lambda folder: graphprune.export_loader(
        training_net.slim_net(), folder / "loader", factory=training_net.net
    ),
    "ONNX": lambda folder: graphprune.export_onnx(graphprune.prune_model(net(), 0.5, X), folder / "net.onnx", X),
}
"""What writes files, into a folder that may hold what it wrote before."""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def full_disks(name: str, folder: Path, count: int, chance: random.Random) -> Counts:
    """Write where files may not become longer than some bytes: what was there stays, and nothing is left beside it."""
    found, largest = Counts(), 0
    written = folder / "written"
    written.mkdir(parents=True)
    WRITERS[name](written)
    before = contents(written)
    largest = max(map(len, before.values()))
    for _ in range(count):
        limit = chance.randint(0, largest - 1)

        def run(limit: int = limit) -> bool:
            with files_at_most(limit):
                try:
                    WRITERS[name](written)
                    felt = False
                except (OSError, graphprune.GraphpruneError):
                    felt = True
            if felt and contents(written) != before:
                raise Wrong("files", f"{sorted(contents(written))} instead of {sorted(before)}")
            return felt

        attempt(found, f"a disk full after {limit} bytes", run)
    return found


@contextmanager
def files_at_most(size: int) -> Iterator[None]:
    """Files that become longer than ``size`` bytes raise an OSError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def kills(name: str, folder: Path, count: int, chance: random.Random) -> Counts:
    """Kill a process that writes again and again: what is left is one of what it wrote, whole."""
    found, kind = Counts(), KINDS[name]
    folder.mkdir(parents=True)
    for _ in range(count):
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.faults", "--write", name, str(folder)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()  # it has written once
            time.sleep(chance.uniform(0, 0.3))
            process.send_signal(signal.SIGKILL)
        attempt(found, "killed", lambda: kind.read(folder) is not None)
    return found


def write_on_and_on(name: str, folder: Path) -> None:
    """Write until somebody kills the process."""
    while True:
        KINDS[name].write(folder)
        print("written", flush=True)


# ---------------------------------------------------------------- all of it


FAULTS: dict[str, tuple[Callable[[str, Path, int, random.Random], Counts], Sequence[str]]] = {
    "error": (errors, list(JOBS)),
    "interrupt": (interrupts, list(JOBS)),
    "full disk": (full_disks, list(WRITERS)),
    "kill": (kills, ("bundle", "checkpoint", "sparse file")),
}
"""By kind, what makes it and in which jobs or writers."""


def note(result: dict[str, Any]) -> None:
    """Write the counts of one job beside those of the others, so that a run can be broken off."""
    known = read_json("faults.json") if (RESULTS / "faults.json").exists() else []
    by_job = {(one["fault"], one["job"]): one for one in [*known, result]}
    order = [(fault, name) for fault, (_, names) in FAULTS.items() for name in names]
    write_json("faults.json", [by_job[key] for key in order if key in by_job])


def main(argv: Sequence[str] | None = None) -> int:
    """Print and write what became of all faults; 1 if something was changed or lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=30, help="faults of each kind in each job")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=list(FAULTS), choices=FAULTS, help="kinds of faults")
    parser.add_argument("--write", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    quiet_one_thread()
    if options.write:
        write_on_and_on(options.write[0], Path(options.write[1]))
    console, results = wide_console(), []
    with tempfile.TemporaryDirectory() as folder, interruptible():
        jobs = [(fault, name) for fault in options.only for name in FAULTS[fault][1]]
        for fault, name in track(jobs, transient=True):
            found = FAULTS[fault][0](name, Path(folder) / fault / name, options.count, random.Random(options.seed))
            results.append({"fault": fault, "job": name, **vars(found)})
            note({**results[-1], "wrong": len(found.wrong)})
            for line in found.wrong[:10]:
                console.print(f"{fault}, {name}: {line}", markup=False)
    made = table("Faults", "fault", "job", "tried", "felt", "wrong", left=2)
    for one in results:
        row(made, one["fault"], one["job"], one["tried"], one["felt"], len(one["wrong"]))
    console.print(made)
    totals = Counter({key: sum(one[key] for one in results) for key in ("tried", "felt")})
    console.print(f"{totals['tried']} faults, {totals['felt']} felt, {sum(len(o['wrong']) for o in results)} wrong")
    return int(any(one["wrong"] for one in results))


@contextmanager
def interruptible() -> Iterator[None]:
    """The timer's signal is a KeyboardInterrupt."""
    before = signal.signal(signal.SIGPROF, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGPROF, before)


if __name__ == "__main__":
    sys.exit(main())
