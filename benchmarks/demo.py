"""``make demo``: four known networks, pruned by half, measured and proved.

Latency is the median of interleaved calls on one thread. The last column is the largest difference between
the slim model and the original with the removed channels masked, in float64, relative to the largest output.
Weights are random, and none are left at zero, since a classifier of zeros agrees with everything.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

import torch
from rich.table import Table
from torch import nn

import graphprune
from benchmarks.common import (
    call,
    enliven,
    image,
    interleaved,
    llama,
    quiet_one_thread,
    row,
    table,
    token_ids,
    wide_console,
)
from graphprune.utils.tables import human

RATIO = 0.5


def main() -> int:
    """Prune, measure and verify; 1 if a verification failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9, help="timed calls of each model (default: 9)")
    options = parser.parse_args()
    quiet_one_thread()
    console = wide_console()
    results = table(
        f"Pruned by {RATIO:.0%} of the channels", "", "parameters", "MACs", "bytes", "latency", "difference"
    )
    passed = True
    for name, build in _networks().items():
        with console.status(f"pruning {name}"):
            passed &= _show(results, name, *build(), repeats=options.repeats)
    console.print(results)
    if not passed:
        print("a slim model differs from its masked original", file=sys.stderr)
    return 0 if passed else 1


def _networks() -> dict[str, Callable[[], tuple[nn.Module, Any]]]:
    from torchvision import models

    return {
        "ResNet-50": lambda: (models.resnet50(), image()),
        "MobileNetV2": lambda: (models.mobilenet_v2(), image()),
        "ViT-B/16": lambda: (models.vit_b_16(), image()),
        "Llama, 8 layers, 8/2 heads": lambda: (llama(8), token_ids()),
    }


def _show(results: Table, name: str, model: nn.Module, inputs: Any, *, repeats: int) -> bool:
    enliven(model.eval())
    graph = graphprune.trace(model, inputs)
    plan = graph.plan(RATIO)
    slim = plan.apply(model)
    before, after = graph.cost(), graph.cost(plan)
    old, new = _latency(model, slim, inputs, repeats)
    check = graphprune.verify(model, slim, plan, inputs)
    row(
        results,
        name,
        f"{human(before.params)} → {human(after.params)}",
        f"{human(before.macs)} → {human(after.macs)}",
        f"{human(before.bytes, 'B')} → {human(after.bytes, 'B')}",
        f"{old:.1f} → {new:.1f} ms",
        f"{check.relative:.1e}" + ("" if check.passed else " FAILED"),
    )
    return check.passed


def _latency(model: nn.Module, slim: nn.Module, inputs: Any, repeats: int) -> list[float]:
    with torch.no_grad():
        return interleaved([lambda: call(model, inputs), lambda: call(slim, inputs)], repeats)


if __name__ == "__main__":
    sys.exit(main())
