"""The pictures of docs/measuring.md: a ResNet-20 on digits, pruned to several numbers of multiply-adds.

It is cut at once, repaired with 128 images without labels, and trained again. ``docs/images`` gets what is drawn,
``benchmarks/results/pictures.json`` the measurements.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import graphprune
from benchmarks.common import quiet_one_thread, row, table, wide_console, write_json
from benchmarks.tasks import TASKS, Task

IMAGES = Path(__file__).parents[1] / "docs" / "images"
BUDGETS = (0.85, 0.7, 0.5, 0.3)
"""Multiply-adds that are left, in parts of the dense network's."""

SAMPLES = 128
"""Images without labels that repair sees."""

DOTS = 80
"""Per inch, so that files are small."""

Points = dict[str, list[graphprune.Measurement]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, draw and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", action="store_true", help="hardly train, one budget: to try things out")
    parser.add_argument("--images", type=Path, default=IMAGES, metavar="DIR", help="where the pictures go")
    options = parser.parse_args(arguments)
    quiet_one_thread()
    task = TASKS["digits-resnet20"](quick=options.sample)
    dense, points = measured(task, BUDGETS[2:3] if options.sample else BUDGETS)
    _print(dense, points)
    options.images.mkdir(parents=True, exist_ok=True)
    graphprune.plot_accuracy(dense, points).savefig(options.images / "accuracy.png", dpi=DOTS)
    again = points["trained again"]
    widths = dense.compare(again[len(again) // 2])
    graphprune.plot_widths(widths).savefig(options.images / "widths.png", dpi=DOTS)
    if not options.sample:
        write_json("pictures.json", {"torch": torch.__version__, "dense": _figures(dense), **_all_figures(points)})
    return 0


def measured(task: Task, budgets: Sequence[float]) -> tuple[graphprune.Measurement, Points]:
    """The dense network, and what is pruned, by how."""
    model = task.dense(0)
    graph = graphprune.trace(model, task.example_inputs)
    points: Points = {"cut": [], "repaired": [], "trained again": []}
    for budget in budgets:
        plan = graph.plan(macs=budget)
        slim = plan.apply(model)
        points["cut"].append(_measure(task, slim))
        graphprune.repair(slim, model, plan, task.calibration(8 if task.quick else SAMPLES, seed=0))
        points["repaired"].append(_measure(task, slim))
        task.tune(slim, seed=0)
        points["trained again"].append(_measure(task, slim))
    return _measure(task, model), points


def _measure(task: Task, model: Any) -> graphprune.Measurement:
    found = graphprune.measure(
        model, task.example_inputs, timed=False, evaluate=lambda m: {"test accuracy (%)": 100 * task.evaluate(m)}
    )
    return replace(found, model="ResNet-20, digits")


def _print(dense: graphprune.Measurement, points: Points) -> None:
    made = table("ResNet-20 on digits", "", "MACs", "parameters", "test accuracy (%)")
    for name, found in {"dense": [dense], **points}.items():
        for one in found:
            row(made, name, f"{(one.macs or 0) / 1e6:.1f} M", f"{one.parameters / 1e3:.1f} k", f"{_score(one):.1f}")
    wide_console().print(made)


def _score(one: graphprune.Measurement) -> float:
    return next(iter(one.scores.values()))


def _figures(one: graphprune.Measurement) -> dict[str, Any]:
    """A measurement without its layers."""
    return {name: value for name, value in json.loads(one.to_json()).items() if name != "layers"}


def _all_figures(points: Points) -> dict[str, list[dict[str, Any]]]:
    return {name: [_figures(one) for one in found] for name, found in points.items()}


if __name__ == "__main__":
    sys.exit(main())
