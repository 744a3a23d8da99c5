"""Plans and repair by two processes that share the calibration batches, against one; and of an offloaded model.

Times are those of the processor, of the process that took longest: where two processes share the batches, each runs
half of them, and both solve the equations. Weights are random.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, distributed, nn
from torch.nn import functional as F

import graphprune
from benchmarks.common import llama, quiet_one_thread, row, table, wide_console, write_json
from graphprune.api import apply_and_repair

PROCESSES, BATCHES = 2, 9
"""One process runs five batches, the other four, of which the last is smaller."""
CRITERIA = ("wanda", "schur", "taylor", "fisher")


@dataclass(frozen=True)
class Case:
    """A network, its calibration batches (inputs, target) and its loss."""

    build: Callable[[], nn.Module]
    batch: Callable[[int], tuple[Any, Tensor]]
    loss: Callable[[Any, Tensor], Tensor] = F.cross_entropy


class SequenceClassifier(nn.Module):
    """Two LSTM layers and classes from the last state."""

    def __init__(self) -> None:
        super().__init__()
        self.cells, self.classes = nn.LSTM(16, 64, num_layers=2, batch_first=True), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.classes(self.cells(x)[0][:, -1])
        return found


def texts(size: int) -> tuple[Any, Tensor]:
    """Tokens, which are their own targets."""
    tokens = torch.randint(97, (size, 32))
    return {"input_ids": tokens}, tokens


def token_loss(output: Any, target: Tensor) -> Tensor:
    """The cross entropy of the next token."""
    return F.cross_entropy(output.logits[:, :-1].flatten(0, 1), target[:, 1:].flatten())


def labeled(*shape: int) -> Callable[[int], tuple[Any, Tensor]]:
    """Random inputs of a shape, and classes."""
    return lambda size: (torch.randn(size, *shape), torch.randint(10, (size,)))


CASES = {
    "ResNet-18": Case(lambda: torchvision.models.resnet18(num_classes=10), labeled(3, 64, 64)),
    "Llama of 4 layers": Case(lambda: llama(4), texts, token_loss),
    "LSTM of 2 layers": Case(SequenceClassifier, labeled(20, 16)),
}


def run_case(case: Case, share: Callable[[Any], Any], offload: Path | None = None) -> dict[str, Any]:
    """Plans by each criterion, and the weights of a repaired model, with the seconds that each took."""
    torch.manual_seed(0)
    model: Any = case.build().eval()
    batches = [case.batch(2 if number == BATCHES - 1 else 4) for number in range(BATCHES)]
    if offload is not None:
        from accelerate import disk_offload

        model = disk_offload(model, offload, execution_device="cpu")
    graph = graphprune.trace(model, batches[0][0])
    found: dict[str, Any] = {}
    for criterion in CRITERIA:
        given = {"importance": criterion, "calibration": share(batches), "loss_fn": case.loss}
        found[criterion] = timed(lambda given=given: graph.plan(0.5, **given))
    plan = found["wanda"][0]
    found["repair"] = timed(lambda: apply_and_repair(model, plan, share(batches), case.loss).state_dict())
    return {name: (value.to_json() if name in CRITERIA else value, took) for name, (value, took) in found.items()}


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """What a function returns, and the seconds of the processor that it took."""
    start = time.process_time()
    return run(), time.process_time() - start


def part(folder: Path, names: list[str]) -> None:
    """What each process does."""
    distributed.init_process_group("gloo")
    found = {name: run_case(CASES[name], graphprune.across_processes) for name in names}
    torch.save(found, folder / f"{distributed.get_rank()}.pt")
    distributed.destroy_process_group()


def in_processes(names: list[str]) -> list[dict[str, Any]]:
    """What each of the processes found."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={PROCESSES}"]
        command += ["-m", "benchmarks.processes", "--part", folder, *names]
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(PROCESSES)]


@dataclass(frozen=True)
class Comparison:
    """One step, done in two ways.

    Attributes:
        equal: plans are equal, between processes too; None for weights.
        difference: the largest difference of weights, of any process; None for plans.
        one, other: seconds of the processor.
    """

    network: str
    step: str
    equal: bool | None
    difference: float | None
    one: float
    other: float

    @property
    def passed(self) -> bool:
        """Whether plans are equal and weights within 1e-5."""
        return self.equal is not False and (self.difference or 0.0) < 1e-5


def compared(network: str, one: dict[str, Any], others: list[dict[str, Any]]) -> list[Comparison]:
    """Each step in one process and in others."""
    made = []
    for step, (expected, seconds) in one.items():
        values, took = [other[step][0] for other in others], max(other[step][1] for other in others)
        if step in CRITERIA:
            made.append(Comparison(network, step, all(v == expected for v in values), None, seconds, took))
        else:
            largest = max(float((v[n].double() - t.double()).abs().max()) for v in values for n, t in expected.items())
            made.append(Comparison(network, step, None, largest, seconds, took))
    return made


def show(title: str, other: str, found: list[Comparison]) -> None:
    """Print a table of comparisons."""
    made = table(title, "network", "step", "plans", "largest difference of weights", "one process", other, left=2)
    for c in found:
        plans = "" if c.equal is None else "equal" if c.equal else "differ"
        largest = "" if c.difference is None else f"{c.difference:.1e}"
        row(made, c.network, c.step, plans, largest, f"{c.one:.2f} s", f"{c.other:.2f} s")
    wide_console().print(made)


def page_table(results: dict[str, Any]) -> str:
    """The table of docs/many_processes.md: seconds, by network and step."""
    lines = ["| network | step | one process | two processes | offloaded to disk |", "|---|---|---:|---:|---:|"]
    for shared, offloaded in zip(results["processes"], results["offloaded"], strict=True):
        seconds = f"{shared['one']:.2f} s | {shared['other']:.2f} s | {offloaded['other']:.2f} s"
        lines.append(f"| {shared['network']} | {shared['step']} | {seconds} |")
    return "\n".join(lines)


def main() -> int:
    """Print both tables, write ``results/processes.json``; 1 if plans differ or weights by more than 1e-5."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(CASES)}; all if none is given")
    parser.add_argument("--part", type=Path, help="what one of the processes does")
    options = parser.parse_args()
    quiet_one_thread()
    names = options.names or list(CASES)
    if options.part is not None:
        part(options.part, names)
        return 0
    alone = {name: run_case(CASES[name], lambda batches: batches) for name in names}
    shared = in_processes(names)
    found = [c for name in names for c in compared(name, alone[name], [one[name] for one in shared])]
    show("Two processes that share the batches", "two processes", found)
    offloaded = []
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            offloaded += compared(name, alone[name], [run_case(CASES[name], lambda batches: batches, Path(folder))])
    show("Weights offloaded to disk by Accelerate", "offloaded", offloaded)
    if not options.names:
        summary = {"processes": list(map(asdict, found)), "offloaded": list(map(asdict, offloaded))}
        write_json("processes.json", {"batches": BATCHES, **summary})
    return 0 if all(c.passed for c in (*found, *offloaded)) else 1


if __name__ == "__main__":
    sys.exit(main())
