"""Measure how long things take, and keep the times of kernels on disk."""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from msgspec import Meta

from graphprune.utils.files import replace_file
from graphprune.utils.typed_json import convert_data, read_json

SHORTEST = 5e-3
"""Seconds that one measurement takes at least."""


Seconds = Annotated[float, Meta(ge=0, le=sys.float_info.max)]


TURN = 0.1
"""Seconds that models which are measured side by side run for before the next one does."""


def measure(*runs: Callable[[], Any], shortest: float = SHORTEST, least: int = 5, turn: float = TURN) -> list[float]:
    """Seconds that each of ``runs`` takes: the median of several turns after two that are not counted.

    They take turns, and all but the first are measured in parts of what the first took in the turn before: a machine
    that is slower for a while is slower for all of them. In its turn each is called several times, as it will be used:
    the first call after another model finds caches and memory as that left them, and is not counted if it is short. A
    turn takes so many seconds, if there are several runs.
    """
    turns: list[list[float]] = [[] for _ in runs]
    for run in (*runs, *runs):
        run()
    start = time.perf_counter()
    while len(turns[0]) < least or time.perf_counter() - start < shortest * len(runs):
        for run, found in zip(runs, turns, strict=True):
            found.append(_turn(run, 0.0 if len(runs) == 1 else turn))
    first = statistics.median(turns[0])
    ratios = ([t / beside for t, beside in zip(found, turns[0], strict=True)] for found in turns[1:])
    return [first, *(first * statistics.median(found) for found in ratios)]


def _turn(run: Callable[[], Any], length: float) -> float:
    """The median time of as many calls as there is time for, in seconds; of one call, if there is none."""
    times = [_seconds(run)]
    while sum(times) < length:
        times.append(_seconds(run))
    return statistics.median(times[1:] or times)


def _seconds(run: Callable[[], Any]) -> float:
    _wait()
    start = time.perf_counter()
    run()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@dataclass
class KernelTable:
    """Times of single operations on one device, by what was called on which shapes; kept in a JSON file.

    Args:
        device: where kernels run.
        path: the file; None: in the user's cache folder, by device, threads and torch version.
    """

    device: torch.device
    path: Path | None = None
    times: dict[str, float] = field(default_factory=dict)
    measured: int = 0

    def __post_init__(self) -> None:
        if self.path is None:
            self.path = _cache_folder() / f"{_machine(self.device)}.json"
        if self.path.exists():
            self.times = _read(self.path)

    def seconds(self, name: str, call: Callable[[], Callable[[], Any]]) -> float:
        """The time of the kernel ``name``; ``call()`` prepares its tensors and returns what is to be timed."""
        if name not in self.times:
            with torch.no_grad():
                (self.times[name],) = measure(call())
            self.measured += 1
        return self.times[name]

    def save(self) -> None:
        """Write what was measured since the last time. Another process's new entries are kept."""
        if self.measured and self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            known = _read(self.path) if self.path.exists() else {}
            text = json.dumps(known | self.times)
            replace_file(self.path, lambda path: path.write_text(text))
            self.measured = 0


def _read(path: Path) -> dict[str, float]:
    """Seconds by the name of the kernel. LoadError: the file is damaged."""
    what, advice = f"latency: the table of kernels {path}", "delete it, and they are measured again"
    return convert_data(read_json(path, what, advice), dict[str, Seconds], what, advice)


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "graphprune"


def _machine(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu-{torch.get_num_threads()}-threads"
    return f"{name}-torch-{torch.__version__}".replace(" ", "-").replace("/", "-")
