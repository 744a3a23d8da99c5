"""A checkpoint that is pruned from folder to folder: memory and time, beside Transformers loading and saving it.

A Llama-shaped bf16 checkpoint of random weights is written in shards. Each run has a process of its own, of which the
kernel's peak of the resident set is read (``VmHWM``), which counts pages of mapped files too. Runs of seconds are
repeated in turn, and the table has the one in the middle. A small twin is compared with pruning in memory, and is
killed at moments of its run and started again.

    python -m benchmarks.prune_checkpoint                # 3.2 billion parameters: 16 GB of disk, some minutes
    python -m benchmarks.prune_checkpoint --size small   # a few seconds
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import graphprune
from benchmarks.common import quiet_one_thread, read_json, row, table, wide_console, write_json
from graphprune.utils.shard_index import INDEX
from graphprune.utils.tensor_files import TensorFiles

GIGABYTE = 10**9

REFERENCE, PRUNED, CALIBRATED = "transformers loads and saves", "pruned", "pruned with calibration"

LIMITS = {PRUNED: 4 * GIGABYTE, CALIBRATED: 6 * GIGABYTE}
"""Bytes of the resident set at most."""

KILLS = 20

REPEATED = 5
"""Runs of each that takes seconds, in turn: times on a machine for several vary by half."""

SHAPES: dict[str, dict[str, int]] = {
    "3b": {
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 128256,
    },
    "small": {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 512,
    },
}

SHARDS = {"3b": "1GB", "small": "100KB"}

SEQUENCES, TOKENS = 32, 32


def main() -> int:
    """Measure everything, print the tables, write ``results/prune_checkpoint.json``; 1 if a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--size", choices=sorted(SHAPES), default="3b", help="of the checkpoint whose runs are measured"
    )
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where files are written")
    parser.add_argument("--kills", type=int, default=KILLS, help="moments at which a run of the twin is killed")
    parser.add_argument(
        "--only", choices=sorted(WORKERS), nargs="*", help="measure these alone; the others keep their figures"
    )
    parser.add_argument("--source", type=Path, help="a checkpoint of this size that is there already")
    parser.add_argument("--worker", choices=sorted(WORKERS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(options.worker, options.size, options.folder)))
        return 0
    quiet_one_thread()
    folder = Path(tempfile.mkdtemp(prefix="prune-checkpoint-", dir=options.folder))
    try:
        found = {
            "size": options.size,
            "measured": measure(
                options.size, folder, list(WORKERS) if options.only is None else options.only, options.source
            ),
            "twin": compare_twins(folder),
            "kills": kill(folder, options.kills),
        }
    finally:
        shutil.rmtree(folder)
    report(found)
    if options.size == "3b":
        kept = read_json("prune_checkpoint.json")["measured"] if options.only is not None else {}
        write_json("prune_checkpoint.json", {**found, "measured": {**kept, **found["measured"]}})
    return 0 if passed(found) else 1


# ---------------------------------------------------------------- checkpoints


def write_checkpoint(folder: Path, size: str) -> None:
    """A Llama-shaped checkpoint of random bf16 weights, written file by file, without the model in memory."""
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**SHAPES[size], tie_word_embeddings=True, dtype="bfloat16", max_position_embeddings=2048)
    with torch.device("meta"):
        model = LlamaForCausalLM(config).bfloat16()
    model.save_pretrained(folder, state_dict={})
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    split = split_torch_state_dict_into_shards(
        state, filename_pattern="model{suffix}.safetensors", max_shard_size=SHARDS[size]
    )
    generator = torch.Generator().manual_seed(0)
    for name, tensors in split.filename_to_tensors.items():
        save_file({one: _random(state[one], generator) for one in tensors}, folder / name, {"format": "pt"})
    index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
    (folder / INDEX).write_text(json.dumps(index))


def _random(like: Tensor, generator: torch.Generator) -> Tensor:
    if like.ndim == 1:
        return 1 + 0.1 * torch.randn(like.shape, generator=generator).bfloat16()
    rows = [torch.randn(part, like.shape[1], generator=generator) for part in _parts(like.shape[0])]
    return torch.cat([(one * like.shape[1] ** -0.5).bfloat16() for one in rows])


def _parts(count: int) -> Iterator[int]:
    yield from [4096] * (count // 4096)
    if count % 4096:
        yield count % 4096


def sequences(vocabulary: int) -> list[Tensor]:
    """Short sequences of random tokens."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(vocabulary, (1, TOKENS), generator=generator) for _ in range(SEQUENCES)]


ASKED: dict[str, Any] = {"params": 0.5}
"""What is asked of every plan: half of the parameters goes."""


# ---------------------------------------------------------------- one process, one run


def _transformers(source: Path, target: Path, _size: str) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).save_pretrained(target)


def _pruned(source: Path, target: Path, _size: str) -> None:
    graphprune.prune_checkpoint(source, target, **ASKED)


def _calibrated(source: Path, target: Path, size: str) -> None:
    calibration = sequences(SHAPES[size]["vocab_size"])
    graphprune.prune_checkpoint(source, target, calibration=calibration, **ASKED)


WORKERS: dict[str, Callable[[Path, Path, str], None]] = {
    REFERENCE: _transformers,
    PRUNED: _pruned,
    CALIBRATED: _calibrated,
}


def work(name: str, size: str, folder: Path) -> dict[str, Any]:
    """One run in this process: seconds, those of them that a processor was busy with it, and the peak of its memory."""
    quiet_one_thread()
    _warm_up(name)
    target = folder / "target"
    with Peaks() as peaks:
        began, before = time.perf_counter(), os.times()
        WORKERS[name](folder / "source", target, size)
        seconds, after = time.perf_counter() - began, os.times()
    busy = after.user + after.system - before.user - before.system
    written = sum(path.stat().st_size for path in target.iterdir())
    return {
        "seconds": seconds,
        "processor": busy,
        "written": written,
        "peak": status("VmHWM"),
        "split": peaks.at_the_highest,
    }


def _warm_up(name: str) -> None:
    """The same with a small checkpoint, so that imports do not count."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        source = folder / "source"
        source.mkdir()
        write_checkpoint(source, "small")
        WORKERS[name](source, folder / "target", "small")


class Peaks:
    """Looks, again and again, how much memory there is of which kind."""

    def __init__(self) -> None:
        self.at_the_highest: dict[str, int] = {"RssAnon": 0, "RssFile": 0}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peaks:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            now = {kind: status(kind) for kind in self.at_the_highest}
            if sum(now.values()) > sum(self.at_the_highest.values()):
                self.at_the_highest = now


def status(field: str) -> int:
    """Bytes of this process, by the kernel."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def measure(size: str, folder: Path, names: list[str], given: Path | None) -> dict[str, Any]:
    """All runs on one checkpoint, one after the other."""
    source = folder / "source"
    if not names:
        return {}
    if given is None:
        source.mkdir()
        write_checkpoint(source, size)
    else:
        source.symlink_to(given.resolve())
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(REPEATED):
        for name in names if number == 0 else [name for name in names if name != CALIBRATED]:
            runs[name].append(_run_once(name, size, folder))
    source.unlink() if given is not None else shutil.rmtree(source)
    return {name: _middle(found) for name, found in runs.items()}


def _run_once(name: str, size: str, folder: Path) -> dict[str, Any]:
    os.sync()  # what an earlier run left to the disk would take time of this one
    done = subprocess.run(_command(name, size, folder), capture_output=True, text=True, check=False)
    shutil.rmtree(folder / "target", ignore_errors=True)
    if done.returncode:
        return {"error": (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _middle(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The run in the middle by its time, with the times and the highest peak of all; or one that failed."""
    failed = next((one for one in runs if "error" in one), None)
    if failed is not None:
        return failed
    ordered = sorted(runs, key=lambda one: one["seconds"])
    highest = max(runs, key=lambda one: one["peak"])
    return {
        **ordered[len(ordered) // 2],
        "all_seconds": [one["seconds"] for one in ordered],
        "peak": highest["peak"],
        "split": highest["split"],
    }


def _command(name: str, size: str, folder: Path) -> list[str]:
    module = [sys.executable, "-m", "benchmarks.prune_checkpoint"]
    return [*module, "--worker", name, "--size", size, "--folder", str(folder)]


# ---------------------------------------------------------------- a small twin


def compare_twins(folder: Path) -> dict[str, float]:
    """By run, the largest difference of a weight from pruning in memory, relative to the weight's largest.

    The plan in memory is one of :meth:`graphprune.ChannelGraph.plan`: ``prune_model`` tries several, and measures them,
    where there is calibration and no criterion is named.
    """
    from transformers import AutoModelForCausalLM

    source = folder / "twin"
    source.mkdir()
    write_checkpoint(source, "small")
    calibration = sequences(SHAPES["small"]["vocab_size"])
    runs: dict[str, dict[str, Any]] = {PRUNED: {}, CALIBRATED: {"calibration": calibration}}
    found = {}
    for name, given in runs.items():
        dense = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
        plan = graphprune.trace(dense).plan(**given, **ASKED)
        slim = plan.apply(dense)
        if given:
            graphprune.repair(slim, dense, plan, calibration)
        graphprune.save_pretrained(slim, folder / "in-memory", processing=source)
        graphprune.prune_checkpoint(source, folder / "streamed", **given, **ASKED)
        found[name] = _difference(TensorFiles(folder / "in-memory"), TensorFiles(folder / "streamed"))
        for made in ("in-memory", "streamed"):
            shutil.rmtree(folder / made)
    return found


def _difference(one: TensorFiles, other: TensorFiles) -> float:
    if one.keys() != other.keys():
        return float("inf")
    pairs = [(one[name].double(), other[name].double()) for name in one]
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-12)) for a, b in pairs)


def kill(folder: Path, moments: int) -> dict[str, int]:
    """Kill runs of the twin with calibration, each at another moment, and start them again: are the files the same?

    Runs are forks of this process, which has imported everything.
    """
    if not moments:
        return {"moments": 0, "same": 0, "killed": 0}
    began = time.perf_counter()
    _started(folder, folder / "whole").join()
    seconds = time.perf_counter() - began
    whole = _files_of(folder / "whole")
    same = killed = 0
    for number in range(moments):
        target = folder / f"killed-{number}"
        process = _started(folder, target)
        process.join(seconds * (number + 0.5) / moments)
        killed += process.is_alive()
        process.kill()  # SIGKILL, which cannot be caught
        process.join()
        if not target.exists():
            _started(folder, target).join()
        same += bool(whole) and _files_of(target) == whole
        shutil.rmtree(target, ignore_errors=True)
    return {"moments": moments, "same": same, "killed": killed}


def _started(folder: Path, target: Path) -> Any:
    process = multiprocessing.get_context("fork").Process(target=_prune_twin, args=(folder / "twin", target))
    process.start()
    return process


def _prune_twin(source: Path, target: Path) -> None:
    calibration = sequences(SHAPES["small"]["vocab_size"])[:8]
    graphprune.prune_checkpoint(source, target, calibration=calibration, max_shard_size="50KB", **ASKED)


def _files_of(folder: Path) -> dict[str, str]:
    """The files of a folder and their checksums."""
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


# ---------------------------------------------------------------- reporting


def passed(found: dict[str, Any]) -> bool:
    """Is everything within its limit?"""
    measured, limits = found["measured"], LIMITS.items()
    failed = any("error" in one for one in measured.values())
    memory = all(measured[name]["peak"] <= most for name, most in limits if name in measured) if not failed else False
    equal = all(difference <= 0.05 for difference in found["twin"].values()) and found["twin"][PRUNED] == 0
    both = not failed and {REFERENCE, PRUNED} <= measured.keys()
    faster = not both or measured[PRUNED]["seconds"] < measured[REFERENCE]["seconds"]
    return memory and equal and faster and found["kills"]["same"] == found["kills"]["moments"]


def report(found: dict[str, Any]) -> None:
    """Print the tables."""
    made = table(
        f"A checkpoint of size {found['size']}",
        "run",
        "seconds",
        "of a processor",
        "written, GB",
        "peak, GB",
        "of it mapped files",
    )
    for name, one in found["measured"].items():
        if "error" in one:
            row(made, name, one["error"], "", "", "", "", style="red")
            continue
        split = one["split"]
        sizes = (one["written"], one["peak"], split["RssFile"])
        cells = (one["seconds"], one["processor"], *(size / GIGABYTE for size in sizes))
        row(made, name, *(f"{cell:.2f}" for cell in cells))
    console = wide_console()
    console.print(made)
    for name, difference in found["twin"].items():
        console.print(f"{name}: the twin differs from pruning in memory by {difference:.2g} of its largest weight")
    kills = found["kills"]
    console.print(f"{kills['same']} of {kills['moments']} runs that were killed and started again gave the same files")


if __name__ == "__main__":
    sys.exit(main())
