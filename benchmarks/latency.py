"""Are latency budgets met? ResNet-50, MobileNetV2 and ViT-B/16 at batch 1 and 8, for 0.5 and 0.7 of what they take.

The result is measured beside the dense model, in turns, in a run of its own; memory is kept by the process. For the
smaller budget it is measured in turn with three uniform plans around the same latency too (which keep multiples of 16
channels as well), and what they keep is interpolated at the latency of the plan: the mean over layers of the share of
the L2 scores that is left (*kept*), and what the search minimizes (*loss*, see graphprune.planning.search).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from rich.table import Table

import graphprune
from benchmarks.common import image, keep_memory, quiet_one_thread, row, table, wide_console, write_json
from graphprune.planning.latency import ALIGNMENT
from graphprune.planning.options import PruningOptions
from graphprune.planning.setup import PlanSetup
from graphprune.utils.timing import median_seconds

MODELS = {"ResNet-50": "resnet50", "MobileNetV2": "mobilenet_v2", "ViT-B/16": "vit_b_16"}
BATCHES = (1, 8)
BUDGETS = (0.5, 0.7)
ROUNDED = {lambda group: group.role in ("mlp", "width"): graphprune.Override(multiple=ALIGNMENT)}


def main() -> int:
    """Print the table, write ``results/latency.json``."""
    options = _options()
    quiet_one_thread()
    keep_memory()
    console = wide_console()
    results = []
    for label, name in MODELS.items():
        for batch in BATCHES:
            if options.only in label:
                with console.status(f"{label}, batch {batch}"):
                    results.extend(_measure(label, name, batch, options.repeats))
    console.print(_table(results))
    if not options.only:
        write_json("latency.json", {"torch": torch.__version__, "threads": 1, "results": results})
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="only the models whose name contains this")
    parser.add_argument("--repeats", type=int, default=11, help="runs of each model when the result is measured")
    return parser.parse_args()


def _measure(label: str, name: str, batch: int, repeats: int) -> list[dict[str, Any]]:
    import torchvision

    torch.manual_seed(0)
    model = torchvision.models.get_model(name, weights=None).eval()
    images = torch.cat([image()] * batch)
    graph = graphprune.trace(model, images)
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict("os.environ", XDG_CACHE_HOME=folder):
        found = [_one(graph, images, budget, repeats) for budget in BUDGETS]
        kernels = sum(len(p.read_text().split('", "')) for p in Path(folder).rglob("*.json"))
    return [result | {"model": label, "batch": batch, "kernels": kernels} for result in found]


def _one(graph: Any, images: torch.Tensor, budget: float, repeats: int) -> dict[str, Any]:
    start = time.perf_counter()
    plan = graph.plan(latency=budget)
    planned = time.perf_counter() - start
    even = [graph.plan(r, overrides=ROUNDED) for r in _ratios(graph, budget)] if budget == min(BUDGETS) else []
    slim = [p.apply(graph.model) for p in (plan, *even)]
    with torch.no_grad():
        runs = [partial(model, images) for model in (graph.model, *slim)]
        dense, small, *others = (1e3 * seconds for seconds in median_seconds(*runs, shortest=2.0, least=repeats))
    kept, loss = _importance(graph, plan)
    return {
        "budget": budget,
        "dense_ms": dense,
        "slim_ms": small,
        "of_budget": small / dense / budget,
        "kept": kept,
        "loss": loss,
        "plan_s": planned,
        **_uniform(others, [_importance(graph, p) for p in even], small),
    }


def _ratios(graph: Any, budget: float) -> list[float]:
    """Uniform ratios of which the one in the middle comes near the latency."""
    plan = graph.plan(latency=budget, allocation="uniform")
    largest = max(plan.choices, key=lambda choice: choice.units)
    middle = len(largest.removed) / largest.units
    return [max(middle + step, 0.0) for step in (-0.06, 0.0, 0.06)]


def _uniform(times: list[float], importance: list[tuple[float, float]], at: float) -> dict[str, float]:
    """What uniform plans keep at the latency ``at``: along a line through their latencies."""
    if not times:
        return {}
    kept, loss = (float(np.polyval(np.polyfit(times, values, 1), at)) for values in zip(*importance, strict=True))
    return {"uniform_kept": kept, "uniform_loss": loss}


def _importance(graph: Any, plan: Any) -> tuple[float, float]:
    """The share of importance that is kept, and what the search calls the loss; means over layers."""
    setup = PlanSetup.of(graph, PruningOptions(0.5))
    shares, layers = [], []
    for number, choice in enumerate(plan.choices):
        scores = setup.scores.of_group(number)
        left = np.setdiff1d(np.arange(choice.units), choice.removed)
        shares.append(scores[left].sum() / scores.sum())
        layers.append(setup.layers(number))
    r = np.array(shares)
    return float(np.average(r, weights=layers)), float(np.average(1 / r**2 - 1, weights=layers))


def _table(results: list[dict[str, Any]]) -> Table:
    made = table(
        "Latency budgets, one thread",
        "model, batch",
        "budget",
        "dense, ms",
        "slim, ms",
        "of the budget",
        "kept",
        "uniform keeps",
        "loss",
        "uniform loses",
        "plan, s",
    )
    for r in results:
        times = (f"{r['dense_ms']:.1f}", f"{r['slim_ms']:.1f}", f"{r['of_budget']:.3f}")
        kept = (f"{r['kept']:.3f}", f"{r['uniform_kept']:.3f}" if "uniform_kept" in r else "")
        loss = (f"{r['loss']:.3f}", f"{r['uniform_loss']:.3f}" if "uniform_loss" in r else "")
        row(made, f"{r['model']}, {r['batch']}", r["budget"], *times, *kept, *loss, f"{r['plan_s']:.0f}")
    return made


if __name__ == "__main__":
    sys.exit(main())
