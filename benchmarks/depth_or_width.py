"""Are layers to go first, or width? A network at falling MACs, pruned in three ways, each repaired and not trained.

*Depth*: attention or MLP of a layer goes, one after another, each time the one without which the repaired network is
nearest to the dense one on samples held back. *Width*: ``allocation="searched"`` at the MACs that this leaves. *Both*:
the same search with ``depth=``. The loss is that of the test data, above that of the dense network.

Times are those of a forward pass of the calibration samples, as fractions of the dense network's: medians of
interleaved runs on one thread, in processor time.

"Beyond FLOPs" (arXiv 2606.09080) finds whole layers the best trade of quality for speed where less than 4 % of quality
is lost, and width where more than 17 % is; the table says what is so here.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from unittest import mock

import torch
from torch import nn

import graphprune
from benchmarks.common import (
    RESULTS,
    cpu_milliseconds,
    quiet_one_thread,
    read_json,
    row,
    table,
    tree,
    wide_console,
    write_json,
)
from benchmarks.tasks import TASKS, Task
from benchmarks.tasks.digits import PLACES, Digits, moved
from benchmarks.tasks.task import each_output
from graphprune.calibration.output_error import DenseOutputs, outputs_of
from graphprune.planning.depth_units import DepthUnits
from graphprune.planning.options import PruningOptions
from graphprune.planning.planner import plan_once
from graphprune.planning.setup import PlanSetup
from graphprune.utils.modules import within

NETWORKS = {"digits-vit": 20.0, "text-gpt": 60.0}
"""And the processor seconds for a search."""
FILE = "depth_or_width.json"
SAMPLES = 128
HELD_BACK = 64
"""Other samples, by which branches are chosen."""
REPEATS = 21
WAYS = ("depth", "width", "both")


def main(arguments: list[str] | None = None) -> int:
    """Print a table, write ``results/depth_or_width.json``; networks that are not measured anew stay in it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=tuple(NETWORKS), metavar="NETWORK", help=", ".join(NETWORKS))
    parser.add_argument("--most", type=int, default=6, help="branches that go (default: 6)")
    options = parser.parse_args(arguments)
    quiet_one_thread()
    found = {one["network"]: one for one in read_json(FILE)["networks"]} if (RESULTS / FILE).exists() else {}
    found |= {name: _measured(TASKS[name](), options.most) for name in options.networks}
    _show(list(found.values()))
    write_json(FILE, {"networks": list(found.values())})
    return 0


def _measured(task: Task, most: int) -> dict[str, Any]:
    trial = _Trial(task)
    rows = [trial.compared(gone) for gone in trial.shallower(most)]
    return {"network": task.name, "dense": trial.dense_loss, "limit": NETWORKS[task.name], "rows": rows, "tree": tree()}


@dataclass(eq=False)
class _Trial:
    """One network and one draw of samples."""

    task: Task

    def __post_init__(self) -> None:
        self.model = self.task.dense(0)
        self.batches = self.task.calibration(SAMPLES, 0)
        self.held_back = list(enumerate(self.task.calibration(HELD_BACK, 1)))
        self.graph = graphprune.trace(self.model, self.task.example_inputs)
        self.units = DepthUnits.of(self.graph)
        self.dense_loss = _loss(self.task, self.model)

    @cached_property
    def _dense(self) -> DenseOutputs:
        return DenseOutputs(outputs_of(self.model, self.held_back))

    @cached_property
    def _criterion(self) -> dict[str, Any]:
        """What ``importance="auto"`` chooses at half of the MACs."""
        asked = self.graph.plan(macs=0.5, importance="auto", calibration=self.batches).requested
        return {"importance": asked["importance"], "normalize": asked.get("normalize")}

    def shallower(self, most: int) -> Iterator[frozenset[int]]:
        """Without one branch, two, ... ; each time the one is added that changes the outputs least."""
        gone = frozenset[int]()
        for _ in range(min(most, len(self.units) - 1)):
            more = [gone | {n} for n in range(len(self.units)) if n not in gone]
            gone = min(more, key=lambda one: self._error(self._without(one)))
            yield gone

    def compared(self, gone: frozenset[int]) -> dict[str, Any]:
        """What the three ways come to at equal MACs."""
        plan = self._without(gone)
        before, after = plan.costs["macs"]
        share = after / before
        plans = {"depth": plan}
        asked = {"macs": share, "allocation": "searched", "candidates": 10**6, **self._criterion}
        for name, depth in (("width", None), ("both", 0.99)):
            with _processor_time():
                limit = NETWORKS[self.task.name]
                plans[name] = self.graph.plan(calibration=self.batches, depth=depth, time_limit=limit, **asked)
        slim = {name: self._repaired(one) for name, one in plans.items()}
        return {
            "left": share,
            "gone": {name: self._count(one) for name, one in plans.items()},
            "increase": {name: _loss(self.task, one) / self.dense_loss - 1 for name, one in slim.items()},
            "time": self._times(slim),
        }

    def _times(self, slim: Mapping[str, nn.Module]) -> dict[str, float]:
        """How long forward passes take, as fractions of the dense network's."""
        models = {"dense": self.model, **slim}
        rounds = [{name: _time(model, self.batches[0]) for name, model in models.items()} for _ in range(REPEATS)]
        middle = {name: statistics.median(one[name] for one in rounds[1:]) for name in models}
        return {name: middle[name] / middle["dense"] for name in slim}

    def _without(self, gone: frozenset[int]) -> graphprune.Plan:
        left_out = self.units.left_out(gone)
        setup = PlanSetup.of(self.graph, PruningOptions.of(0.0, {}))
        return plan_once(replace(setup, skipped=left_out.skipped, zeroed=left_out.zeroed))

    def _count(self, plan: graphprune.Plan) -> int:
        """How many branches a plan is without."""
        ends = [unit.left_out.skipped[-1] for unit in self.units.units]
        return sum(within(f"{end}.", plan.skipped) for end in ends)

    def _repaired(self, plan: graphprune.Plan) -> nn.Module:
        slim = plan.apply(self.model)
        graphprune.repair(slim, self.model, plan, self.batches)
        return slim

    def _error(self, plan: graphprune.Plan) -> float:
        return self._dense.error(outputs_of(self._repaired(plan), self.held_back)).value


@torch.no_grad()
def _time(model: nn.Module, inputs: Any) -> float:
    """Of one forward pass: milliseconds of the processor."""
    return cpu_milliseconds(lambda: model(inputs))


def _loss(task: Task, model: nn.Module) -> float:
    """Of the test data: bits per byte, or the cross-entropy of images at several places."""
    if not isinstance(task, Digits):
        return task.evaluate(model)
    pixels = torch.tensor(PLACES)[..., None, None]
    parts = [moved(images, *place) for place in pixels for images in task.test.images.split(150)]
    outputs = each_output(model, parts, lambda m, images: m(images))
    return float(task.loss(outputs, task.test.labels.repeat(len(PLACES))))


@contextmanager
def _processor_time() -> Iterator[None]:
    """Let time limits count the processor seconds of this process."""
    with mock.patch.object(time, "monotonic", time.process_time):
        yield


def _show(found: Sequence[Mapping[str, Any]]) -> None:
    columns = ("network", "MACs", *WAYS, "branches gone", "time", "best")
    made = table("Increase of the loss: branches alone, width alone, both", *columns)
    for one in found:
        for each in one["rows"]:
            increase, gone, times = each["increase"], each["gone"], each["time"]
            counts = f"{gone['depth']}, {gone['both']}"
            cells = [*(f"{increase[name]:+.1%}" for name in WAYS), counts]
            cells.append(", ".join(f"{times[name]:.2f}" for name in WAYS))
            row(made, one["network"], f"{each['left']:.3f}", *cells, min(increase, key=increase.__getitem__))
    wide_console().print(made)


if __name__ == "__main__":
    sys.exit(main())
