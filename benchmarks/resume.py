"""A pruning that is killed at a random moment and started again: does it end with the same weights, bit for bit?

A CIFAR ResNet-20 that reads digits is pruned in rounds, with repair, distillation of logits and features, AdamW, and
a checkpoint every two steps, in a process of its own. Each of twenty times it is killed (SIGKILL) after a random time,
and started again with the same folder.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import graphprune
from benchmarks.common import quiet_one_thread, row, table, wide_console, write_json
from graphprune import Distillation
from models.resnet_cifar import resnet20

KILLS = 20
IMAGES = 256
WEIGHTS = "weights.safetensors"


def main() -> int:
    """Print the table, write ``results/resume.json``; 1 if a run ended with other weights."""
    options = _options()
    quiet_one_thread()
    console = wide_console()
    with tempfile.TemporaryDirectory() as folder, console.status("uninterrupted"):
        expected, seconds = _uninterrupted(Path(folder))
    chance, results = random.Random(options.seed), []
    while len(results) < options.kills:
        with tempfile.TemporaryDirectory() as folder, console.status(f"{len(results) + 1} of {options.kills}"):
            result = _trial(Path(folder), chance.uniform(0, seconds), expected)
            results += [result] if result else []
    console.print(_table(results, seconds))
    summary = {"torch": torch.__version__, "seed": options.seed, "seconds": seconds, "runs": results}
    if options.kills == KILLS:
        write_json("resume.json", summary)
    return 1 if any(not result["equal"] for result in results) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=KILLS, help=f"how many runs are killed (default: {KILLS})")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    return parser.parse_args()


# ---------------------------------------------------------------- processes


def attempt(work: Callable[[Path], None], folder: Path, kill_after: float | None) -> bool:
    """Let a process of its own do ``work(folder)``; after so many seconds it is killed. Was it done?"""
    process: Any = _context().Process(target=work, args=(folder,))
    process.start()
    process.join(kill_after)
    if process.is_alive():
        process.kill()
        process.join()
        return False
    if process.exitcode:
        raise RuntimeError(f"the process ended with exit code {process.exitcode}")
    return True


@cache
def _context() -> Any:
    """Processes that start in milliseconds, because a server has imported torch for them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["graphprune", "sklearn.datasets", "torch._dynamo"])
    return context


def run(folder: Path) -> None:
    """The whole run, from wherever it was; leaves the weights in the folder."""
    quiet_one_thread()
    torch.manual_seed(0)
    images, labels = _digits()
    batches = DataLoader(TensorDataset(images, labels), 64, shuffle=True)
    found = graphprune.prune_iteratively(
        resnet20(in_channels=1),
        images[:1],
        rounds=2,
        macs=0.4,
        calibration=[images[:64]],
        tune={
            "batches": batches,
            "epochs": 12,
            "lr": 1e-3,
            "optimizer": "adamw",
            "distill": Distillation(features=("layer1", "layer3")),
            "every": 2,
        },
        evaluate=lambda model: _accuracy(model, images, labels),
        checkpoint=folder / "checkpoint",
    )
    tensors = {name: tensor.contiguous() for name, tensor in found.model.state_dict().items()}
    save_file(tensors, folder / WEIGHTS)


def _digits() -> tuple[Tensor, Tensor]:
    """Images [n, 1, 8, 8] of values in [-1, 1], and labels [n]."""
    data = load_digits()
    images = torch.tensor(data.images[:IMAGES], dtype=torch.float32)[:, None] / 8 - 1
    return images, torch.tensor(data.target[:IMAGES])


def _accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return float((model(images).argmax(1) == labels).float().mean())


# ---------------------------------------------------------------- trials


def _uninterrupted(folder: Path) -> tuple[dict[str, Tensor], float]:
    """The weights, and how long it takes."""
    (folder / "first").mkdir()
    attempt(run, folder / "first", None)  # the server starts with the first process
    start = time.perf_counter()
    attempt(run, folder, None)
    return load_file(folder / WEIGHTS), time.perf_counter() - start


def _trial(folder: Path, kill_after: float, expected: dict[str, Tensor]) -> dict[str, Any] | None:
    """What became of a run that was killed; None: it was done before."""
    if attempt(run, folder, kill_after):
        return None
    there = sorted(str(p.relative_to(folder / "checkpoint")) for p in (folder / "checkpoint").glob("*/*"))
    start = time.perf_counter()
    attempt(run, folder, None)
    found = load_file(folder / WEIGHTS)
    equal = found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)
    seconds = time.perf_counter() - start
    return {"kill_after": kill_after, "there": there, "resumed": seconds, "equal": equal}


def _table(results: list[dict[str, Any]], seconds: float) -> Table:
    title = f"Killed and started again; a whole run takes {seconds:.1f} s"
    made = table(title, "killed after, s", "what was there", "then, s", "same weights", left=0)
    made.columns[1].justify = "left"
    for r in results:
        row(
            made,
            f"{r['kill_after']:.2f}",
            ", ".join(r["there"]) or "nothing",
            f"{r['resumed']:.1f}",
            "yes" if r["equal"] else "NO",
        )
    same = sum(r["equal"] for r in results)
    made.caption = f"{same} of {len(results)} runs ended with the same weights, bit for bit"
    return made


if __name__ == "__main__":
    sys.exit(main())
