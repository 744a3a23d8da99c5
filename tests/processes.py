"""Run a module of tests in several processes that talk through gloo."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed

ROOT = Path(__file__).parents[1]


def run_in_processes(module: str, folder: Path, count: int = 2, timeout: float = 120) -> list[Any]:
    """What ``serve`` has in each process, in the order of their ranks."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "WORLD_SIZE": str(count)}
    command = [sys.executable, "-m", module, str(folder)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT}
    running = [subprocess.Popen(command, env=environment | {"RANK": str(rank)}, **pipes) for rank in range(count)]
    try:
        said = [process.communicate(timeout=timeout)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    files = [folder / f"{rank}.pt" for rank in range(count)]
    assert all(file.exists() for file in files), "\n".join(said)
    return [torch.load(file, weights_only=False) for file in files]


def serve(part: Callable[[int], Any], last: Callable[[int, Path], None]) -> None:
    """The program of one process: what ``part(rank)`` returns is written; then ``last(rank, folder)`` is run."""
    torch.set_num_threads(1)
    folder, rank, count = Path(sys.argv[1]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=count)
    torch.save(part(rank), folder / f"{rank}.part")
    (folder / f"{rank}.part").rename(folder / f"{rank}.pt")
    last(rank, folder)
    os._exit(0)
