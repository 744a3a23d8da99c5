"""Memory of planning: how far the resident set grows, as a fraction of the model's bytes.

Each model is planned in a process of its own, after a small one has been planned there, so that imports and
caches do not count. The peak is the kernel's (``VmHWM``, reset before), which sees what torch allocates.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import graphprune
from benchmarks.common import (
    image,
    llama,
    quiet_one_thread,
    reset_peak,
    resident,
    row,
    table,
    token_ids,
    wide_console,
    write_json,
)

LIMIT = 0.10
RATIO = 0.5


def main() -> int:
    """Measure every case, print the table, write ``results/memory.json``; 1 if one passes the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", choices=sorted(_CASES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not Path("/proc/self/clear_refs").exists():
        print("memory is measured through /proc, which this system does not have", file=sys.stderr)
        return 2
    if options.worker:
        print(json.dumps(_measure(options.worker)))
        return 0
    results = {name: _in_a_process(name) for name in _CASES}
    wide_console().print(_table(results))
    write_json("memory.json", results)
    return 0 if all(_within_limit(result) for result in results.values()) else 1


def _in_a_process(name: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.memory", "--worker", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]}
    return json.loads(done.stdout.splitlines()[-1])


# ---------------------------------------------------------------- one process, one model


def _big_llama() -> nn.Module:
    """0.84 billion parameters, 3.4 GB."""
    return llama(16, hidden=2048, vocabulary=32000, heads=16, kv_heads=4)


def _big_llama_on_meta() -> nn.Module:
    """A decoder of 56 billion parameters that takes no memory."""
    with torch.device("meta"):
        return llama(80, hidden=8192, vocabulary=32000, heads=64, kv_heads=8)


def _vit() -> nn.Module:
    from torchvision import models

    return models.vit_l_16().eval()


def _vgg() -> nn.Module:
    from torchvision import models

    return models.vgg16().eval()


_CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], str]] = {
    "vgg16": (_vgg, image, "l2"),
    "vit_l_16": (_vit, image, "l2"),
    "llama-0.8b": (_big_llama, lambda: token_ids(32000), "l2"),
    "llama-0.8b, random": (_big_llama, lambda: token_ids(32000), "random"),
    "llama-56b on meta, random": (_big_llama_on_meta, lambda: token_ids(32000), "random"),
}


def _measure(name: str) -> dict[str, Any]:
    quiet_one_thread()
    build, inputs, importance = _CASES[name]
    _plan(llama(1), token_ids(), importance)
    model, example = build(), inputs()
    reset_peak()
    before, start = resident("VmRSS"), time.perf_counter()
    _plan(model, example, importance)
    seconds, peak = time.perf_counter() - start, resident("VmHWM")
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    return {"bytes": size, "extra": max(0, peak - before), "seconds": seconds, "device": _device(model)}


def _plan(model: nn.Module, inputs: Any, importance: str) -> Any:
    return graphprune.trace(model, inputs).plan(RATIO, importance=importance)


def _device(model: nn.Module) -> str:
    return next(model.parameters()).device.type


# ---------------------------------------------------------------- reporting


def _within_limit(result: dict[str, Any]) -> bool:
    return "error" not in result and result["extra"] <= LIMIT * result["bytes"]


def _table(results: dict[str, dict[str, Any]]) -> Any:
    made = table("Extra memory while planning", "model", "model, MB", "extra, MB", "of the model", "seconds", "")
    for name, result in results.items():
        if "error" in result:
            row(made, name, "", "", "", "", result["error"], style="red")
            continue
        size, extra = result["bytes"] / 1e6, result["extra"] / 1e6
        verdict = "" if _within_limit(result) else f"over {LIMIT:.0%}"
        row(
            made,
            name,
            f"{size:.0f}",
            f"{extra:.1f}",
            f"{extra / size:.1%}",
            f"{result['seconds']:.2f}",
            verdict,
        )
    return made


if __name__ == "__main__":
    sys.exit(main())
