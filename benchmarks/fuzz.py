"""``python -m benchmarks.fuzz``: read damaged and hostile files of every kind that graphprune writes, and of others.

Bytes and JSON of a file are changed at random, half of the time with a checksum that was made right again, so that the
change is not found at once. Reading such a file must end, in a second of processor time and 200 MB, with a LoadError
(of the user's own data an InputError) or with what a file may say: the same thing where the checksums are the old
ones, and any well-formed thing where somebody made them right, or there are none. Nothing may be executed, written,
removed or connected to meanwhile. A table of kernel times, which is only a cache, is measured again, with a warning.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from safetensors.torch import save_file
from torch import Tensor, nn

import graphprune
from benchmarks.common import RESULTS, quiet_one_thread, read_json, row, table, wide_console, write_json
from graphprune.cli.data_files import read_records
from graphprune.errors import InputError, LoadError
from graphprune.planning.kernel_table import KernelTable
from graphprune.utils.folders import CHECKSUMS
from graphprune.utils.shard_index import INDEX
from graphprune.utils.tensor_files import TensorFiles
from tests.damage import damaged_file, sum_of
from tests.training_net import net, slim_net

SECONDS = 1.0
MEMORY = 200 << 20
FORBIDDEN = ("exec", "compile", "os.", "subprocess.", "shutil.", "socket.", "pickle.", "ctypes.dlopen")
HARMLESS = frozenset(("os.listdir", "os.scandir", "os.fwalk", "os.walk"))
X = torch.zeros(2, 6)


@dataclass(frozen=True)
class Kind:
    """A kind of file, or of folder of files.

    Attributes:
        write: write one below a folder.
        read: read it back from there.
        sums: are its bytes checked against sums?
    """

    write: Callable[[Path], object]
    read: Callable[[Path], Any]
    sums: bool = True


@dataclass
class Counts:
    """What became of the damaged files of a kind; ``wrong`` says of each that went wrong how."""

    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0


def write_plan(folder: Path) -> None:
    (folder / "plan.json").write_text(graphprune.trace(net(), X).plan(0.5).to_json())


def write_checkpoint(folder: Path) -> None:
    slim = slim_net()
    graphprune.save_checkpoint(folder, slim, {"step": 3, "more": [1, 2.5, None]}, optimizer=adam(slim))


def read_checkpoint(folder: Path) -> Any:
    model = net()
    optimizer = adam(model)
    state = graphprune.load_checkpoint(folder, model, optimizer=optimizer)
    return state, model.state_dict(), optimizer.state_dict()


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), foreach=False)


def write_sparse(folder: Path) -> None:
    model = slim_net()
    graphprune.sparsify(model, 0.5)
    graphprune.save_sparse(model, folder / "sparse.safetensors")


def write_history(folder: Path) -> None:
    history = graphprune.History((3.0, 2.0), (0.1, 0.1), {2: 0.5}, (2,))
    (folder / "history.json").write_text(history.to_json())


def write_measurement(folder: Path) -> None:
    found = graphprune.measure(net(), X)
    (folder / "measurement.json").write_text(found.to_json())


def write_kernels(folder: Path) -> None:
    (folder / "kernels.json").write_text(json.dumps({"aten.mm.default [2, 6]": 1e-6, "aten.relu.default [2]": 2e-6}))


def read_kernels(folder: Path) -> Any:
    return KernelTable(torch.device("cpu"), folder / "kernels.json").times


def write_weights(folder: Path) -> None:
    """Two files and the index that names them, as Transformers writes them."""
    state, names = net().state_dict(), {}
    for number, part in enumerate((list(state)[::2], list(state)[1::2])):
        save_file({name: state[name] for name in part}, folder / f"model-{number}.safetensors")
        names.update(dict.fromkeys(part, f"model-{number}.safetensors"))
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))


def write_record(folder: Path) -> None:
    (folder / "line.json").write_text(json.dumps({"x": [[0.5, 2], [1.5, 2.0]], "mask": [1, 0], "labels": 3}))


KINDS = {
    "plan": Kind(write_plan, lambda folder: graphprune.Plan.from_json(read_text(folder / "plan.json")).to_json()),
    "bundle": Kind(
        lambda folder: graphprune.save(slim_net(), folder, max_shard_size=400),
        lambda folder: graphprune.load(folder, net()).state_dict(),
    ),
    "checkpoint": Kind(write_checkpoint, read_checkpoint),
    "sparse file": Kind(write_sparse, lambda folder: graphprune.load_sparse(folder / "sparse.safetensors")),
    "history": Kind(write_history, lambda folder: graphprune.History.from_json(read_text(folder / "history.json"))),
    "measurement": Kind(
        write_measurement, lambda folder: graphprune.Measurement.from_json(read_text(folder / "measurement.json"))
    ),
    "kernel times": Kind(write_kernels, read_kernels),
    "weights of Transformers": Kind(write_weights, lambda folder: dict(TensorFiles(folder)), sums=False),
    "calibration record": Kind(
        write_record, lambda folder: read_records("--data", folder / "line.json", 9, None, 8)[0], sums=False
    ),
}


def read_text(path: Path) -> str:
    return path.read_bytes().decode(errors="replace")


# ---------------------------------------------------------------- what may not happen while reading


class Watch:
    """Notices through Python's audit events what runs code, or touches files, processes or the network."""

    def __init__(self) -> None:
        self.on, self.seen = False, ""
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on:
            return
        writes = event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+")
        if writes or (event.startswith(FORBIDDEN) and event not in HARMLESS):
            self.seen = f"{event} {args}"[:200]

    @contextmanager
    def nothing_happens(self) -> Iterator[None]:
        self.on, self.seen = True, ""
        try:
            yield
        finally:
            self.on = False


@contextmanager
def memory_bound(more: int) -> Iterator[None]:
    """No more private memory than ``more`` bytes beyond what is used: what asks for it gets a MemoryError."""
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    lines = Path("/proc/self/status").read_text().splitlines()
    used = next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (used + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def alike(one: Any, other: Any) -> bool:
    """Are two things that were read the same, tensors bit for bit?"""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(alike(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)


# ---------------------------------------------------------------- damage


def fuzz(kind: Kind, folder: Path, count: int, start: int, watch: Watch) -> Counts:
    """Read ``count`` damaged files of a kind."""
    original, copy = folder / "original", folder / "copy"
    original.mkdir(parents=True)
    kind.write(original)
    expected, found = kind.read(original), Counts()
    for seed in track(range(start, start + count), transient=True):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(original, copy)
        name, right = damage(copy, random.Random(seed))
        before = time.process_time()
        state, said = outcome(kind, copy, None if right or not kind.sums else expected, watch)
        took = time.process_time() - before
        found.slowest = max(found.slowest, took)
        if took > SECONDS:
            state, said = "wrong", f"took {took:.1f} s"
        found.kinds[state] += 1
        if state == "wrong":
            found.wrong.append(f"seed {seed}, {name}: {said}")
    return found


def damage(folder: Path, chance: random.Random) -> tuple[str, bool]:
    """Change a file below a folder; its name, and whether nothing says any more what it was."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = chance.choice(files)
    path.write_bytes(damaged_file(path.name, path.read_bytes(), chance))
    sums = path.parent / CHECKSUMS
    if path.name == CHECKSUMS or not sums.exists():
        return path.name, path.name == CHECKSUMS or path.suffix == ".json"
    if chance.random() < 0.5:
        return path.name, False
    known = json.loads(sums.read_text()) | {path.name: sum_of(path.read_bytes())}
    sums.write_text(json.dumps(known))
    return path.name, True


def outcome(kind: Kind, folder: Path, expected: Any, watch: Watch) -> tuple[str, str]:
    """What reading the files of a folder comes to; they must be as ``expected`` unless that is None."""
    try:
        with warnings.catch_warnings(), watch.nothing_happens(), memory_bound(MEMORY):
            warnings.simplefilter("ignore")
            found = kind.read(folder)
    except (LoadError, InputError) as error:
        return ("wrong", f"{watch.seen} before {error}") if watch.seen else ("refused", "")
    except Exception as error:  # counted and printed: this is what the script looks for
        return "wrong", f"{watch.seen} {type(error).__name__}: {str(error)[:200]}".strip()
    if watch.seen:
        return "wrong", watch.seen
    if expected is None:
        return "read", ""
    return ("equal", "") if alike(found, expected) else ("wrong", "other contents, with the old checksums")


def main(argv: Sequence[str] | None = None) -> int:
    """Print and write what became of the damaged files; 1 if one went wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="damaged files of each kind")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--only", nargs="+", default=list(KINDS), choices=KINDS, help="kinds of files")
    options = parser.parse_args(argv)
    quiet_one_thread()
    watch, console = Watch(), wide_console()
    results = read_json("fuzz.json") if (RESULTS / "fuzz.json").exists() else {}
    made = table("Damaged files", "kind", "files", "refused", "equal", "read", "wrong", "slowest, s")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            found = fuzz(KINDS[name], Path(folder) / name, options.count, options.start, watch)
            counts = {state: found.kinds[state] for state in ("refused", "equal", "read", "wrong")}
            row(made, name, options.count, *counts.values(), f"{found.slowest:.2f}")
            results[name] = {"files": options.count, **counts, "slowest": round(found.slowest, 3)}
            write_json("fuzz.json", {kind: results[kind] for kind in KINDS if kind in results})
            for line in found.wrong[:20]:
                console.print(f"{name}: {line}", markup=False)
    console.print(made)
    return int(any(results[name]["wrong"] for name in options.only))


if __name__ == "__main__":
    sys.exit(main())
