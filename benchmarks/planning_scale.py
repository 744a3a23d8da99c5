"""Planning of large language models on ``meta``: time and memory from 1B to 405B parameters.

Every size runs in a process of its own: Llama as Transformers builds it, no weights, one core. Three things are asked:
the trace, a plan by a ratio, and a plan under a budget of parameters; both plans are checked against the slim model's
own program, as always. Times are wall times, with the seconds of the processor beside them, which a busy machine
changes less. Memory is the growth of the resident set from the built model to the peak. A least-squares line through
the times by layers says what one layer costs; that this does not grow with the depth is what the last column shows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

import graphprune
from benchmarks.common import (
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

TOKENS = 16


class Shape(NamedTuple):
    """Sizes of a Llama."""

    hidden: int
    inner: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int


SIZES = {
    "1B": Shape(2048, 8192, 16, 32, 8, 128256),
    "3B": Shape(3072, 8192, 28, 24, 8, 128256),
    "8B": Shape(4096, 14336, 32, 32, 8, 128256),
    "70B": Shape(8192, 28672, 80, 64, 8, 128256),
    "405B": Shape(16384, 53248, 126, 128, 8, 128256),
}
STEPS: dict[str, Callable[[Any], Any]] = {
    "ratio": lambda graph: graph.plan(0.5, importance="random"),
    "budget": lambda graph: graph.plan(params=0.5, importance="random"),
}


def main() -> int:
    """Measure every size, print the tables, write ``results/planning_scale.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="*", choices=[[], *SIZES], help="only these (default: all)")
    parser.add_argument("--worker", choices=sorted(SIZES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not Path("/proc/self/clear_refs").exists():
        print("memory is measured through /proc, which this system does not have", file=sys.stderr)
        return 2
    if options.worker:
        print(json.dumps(measure(build(SIZES[options.worker]))))
        return 0
    results = {name: _in_a_process(name) for name in options.sizes or SIZES}
    console = wide_console()
    console.print(_table(results))
    if len(results) > 1:
        console.print(_growth(results))
    if not options.sizes:
        write_json("planning_scale.json", {"torch": torch.__version__, "tokens": TOKENS, "sizes": results})
    return 0


def build(shape: Shape) -> nn.Module:
    """A model of bfloat16 tensors without values."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        vocab_size=shape.vocabulary,
        use_cache=False,
    )
    with torch.device("meta"):
        return LlamaForCausalLM(config).eval().bfloat16()


def measure(model: nn.Module) -> dict[str, Any]:
    """Seconds of every step, and bytes of memory, with imports and caches out of the way."""
    quiet_one_thread()
    ids = token_ids(length=TOKENS)
    small = graphprune.trace(llama(1), ids)
    for step in STEPS.values():
        step(small)
    del small
    reset_peak()
    before = resident("VmRSS")
    seconds, processor = {}, {}
    found: Any = model
    for name, step in {"trace": lambda model: graphprune.trace(model, ids), **STEPS}.items():
        start, ticks = time.perf_counter(), time.process_time()
        made = step(found)
        seconds[name], processor[name] = time.perf_counter() - start, time.process_time() - ticks
        found = made if name == "trace" else found
    return {
        "layers": model.config.num_hidden_layers,
        "parameters": sum(p.numel() for p in model.parameters()),
        "labels": found.labeling.labels.count,
        "runs": len(found.solution.items.of),
        "seconds": seconds,
        "processor": processor,
        "memory": resident("VmHWM") - before,
    }


def _in_a_process(name: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.planning_scale", "--worker", name]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _table(results: dict[str, dict[str, Any]]) -> Any:
    steps = ["trace", *STEPS]
    titles = ("layers", "labels, M", "runs", *steps, "all, s", "processor, s", "memory, MiB")
    made = table("Planning on meta, one core", "Llama", *titles)
    for name, found in results.items():
        times = [f"{found['seconds'][step]:.2f}" for step in steps]
        both = (f"{sum(found[kind].values()):.2f}" for kind in ("seconds", "processor"))
        sizes = (found["layers"], f"{found['labels'] / 1e6:.1f}", found["runs"])
        row(made, name, *sizes, *times, *both, f"{found['memory'] / 2**20:.0f}")
    return made


def _growth(results: dict[str, dict[str, Any]]) -> Any:
    """Processor time and memory per layer, and the line through the times."""
    made = table("Growth", "Llama", "processor, ms a layer", "memory, MiB a layer", "runs a layer")
    for name, found in results.items():
        layers = found["layers"]
        time_, memory = sum(found["processor"].values()) * 1e3, found["memory"] / 2**20
        row(made, name, f"{time_ / layers:.1f}", f"{memory / layers:.2f}", f"{found['runs'] / layers:.0f}")
    layers = [found["layers"] for found in results.values()]
    slope, start = np.polyfit(layers, [sum(found["processor"].values()) for found in results.values()], 1)
    made.caption = f"line through the times: {start:.2f} s + {slope * 1e3:.1f} ms a layer"
    return made


if __name__ == "__main__":
    sys.exit(main())
