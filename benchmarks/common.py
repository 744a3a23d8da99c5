"""What the benchmarks share: quiet, single-threaded timing, tables and result files."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import logging
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here needs a download

RESULTS = Path(__file__).parent / "results"
MACHINES = "machines.json"


def quiet_one_thread() -> None:
    """One thread, and no chatter of other libraries between the numbers."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)


def keep_memory() -> None:
    """Let glibc keep what tensors give back, as other allocators do.

    Otherwise large ones are mapped anew in every call, and their time depends on what pages the system has to give.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for threshold in (-3, -1):  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
            libc.mallopt(threshold, 1 << 30)


def reset_peak() -> None:
    """Let the peak of resident memory, ``resident("VmHWM")``, begin anew."""
    ctypes.CDLL(None).malloc_trim(0)  # else memory that was freed but kept would hide what is taken
    Path("/proc/self/clear_refs").write_text("5")


def resident(field: str) -> int:
    """Resident memory in bytes: ``"VmRSS"`` now, ``"VmHWM"`` at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def milliseconds(run: Callable[[], Any]) -> float:
    """Wall time of one call, with the garbage of earlier ones out of the way."""
    gc.collect()
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def cpu_milliseconds(run: Callable[[], Any]) -> float:
    """Processor time of one call: on one thread the wall time of a machine that does nothing else."""
    gc.collect()
    start = time.process_time()
    run()
    return (time.process_time() - start) * 1e3


def interleaved(runs: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """Median milliseconds of each run, measured A B A B, so that drift of the machine meets all alike."""
    times: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run()  # warm-up
    for _ in range(repeats):
        for run, found in zip(runs, times, strict=True):
            found.append(milliseconds(run))
    return [statistics.median(found) for found in times]


def wide_console() -> Console:
    """A console that leaves tables whole where the output is a file or a pipe."""
    return Console(width=None if sys.stdout.isatty() else 130)


def table(title: str, *columns: str, left: int = 1) -> Table:
    """A table whose first ``left`` columns are text and the others numbers."""
    made = Table(title=title, title_justify="left", title_style="bold")
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index < left else "right")
    return made


def row(made: Table, *cells: object, style: str = "") -> None:
    """Add a row of plain text: rich would read the brackets of a shape as markup."""
    made.add_row(*(Text(str(cell)) for cell in cells), style=style)


def write_json(name: str, data: Any) -> Path:
    """Write a summary below ``benchmarks/results``, and in ``machines.json`` where it was measured."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / name
    path.write_text(json.dumps(data, indent=2) + "\n")
    machines = read_json(MACHINES) if (RESULTS / MACHINES).exists() else {}
    machines[name] = {"machine": _machine(), "torch": torch.__version__, "python": platform.python_version()}
    (RESULTS / MACHINES).write_text(json.dumps(dict(sorted(machines.items())), indent=2) + "\n")
    return path


def read_json(name: str) -> Any:
    """A summary below ``benchmarks/results``."""
    return json.loads((RESULTS / name).read_text())


@cache
def tree() -> str:
    """Which state of the library is measured: the first digits of a hash of its source files."""
    made = hashlib.sha256()
    folder = Path(__file__).parents[1] / "graphprune"
    for path in sorted(folder.rglob("*.py")):
        made.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return made.hexdigest()[:8]


def machine_of(name: str) -> list[str]:
    """Where a summary was measured and with which versions; of what was measured before that was noted, that it was."""
    noted = read_json(MACHINES).get(name) if (RESULTS / MACHINES).exists() else None
    if noted is not None:
        return [noted["machine"], f"torch {noted['torch']}", f"Python {noted['python']}"]
    data = read_json(name)
    models = data.get("models", []) if isinstance(data, dict) else []
    versions = {data.get("torch")} | {model.get("torch") for model in models} - {None}
    torches = [f"torch {' and '.join(sorted(filter(None, versions)))}"] if any(versions) else []
    return [*torches, "on an earlier tree"]


def _machine() -> str:
    """The processor, and how many of its cores there are."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()}, {os.cpu_count()} cores"


def call(model: nn.Module, inputs: Any) -> Any:
    """Call a model with a tensor, a tuple of arguments or a dict of keyword arguments."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)


def enliven(model: nn.Module) -> None:
    """Give every tensor that is initialized to one value other ones, as training would.

    A classifier of zeros, or normalizations that do nothing, would hide mistakes from the verification.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if not tensor.is_floating_point() or tensor.numel() < 2 or tensor.min() != tensor.max():
                continue
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif isinstance(tensor, nn.Parameter) or name.endswith("running_mean"):
                tensor.add_(torch.randn(tensor.shape, generator=generator), alpha=0.1)


def llama(layers: int, *, hidden: int = 512, vocabulary: int = 4096, heads: int = 8, kv_heads: int = 2) -> nn.Module:
    """A Llama of Transformers with shared key/value heads and random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=hidden * 43 // 16,
        vocab_size=vocabulary,
        max_position_embeddings=256,
    )
    return LlamaForCausalLM(config).eval()


def token_ids(vocabulary: int = 4096, length: int = 64) -> dict[str, torch.Tensor]:
    """A batch of one sequence of token ids, always the same."""
    generator = torch.Generator().manual_seed(0)
    return {"input_ids": torch.randint(vocabulary, (1, length), generator=generator)}


def image(size: int = 224) -> torch.Tensor:
    """A batch of one random image, always the same."""
    return torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
