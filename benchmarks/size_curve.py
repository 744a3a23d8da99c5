"""Accuracy against size, down to 200 times fewer parameters: a ResNet-18 that reads digits.

One run of ``prune_iteratively`` gives the whole curve: eight rounds, each of which leaves about half, taught by the
dense network after each, longer where it is small. Beside it stands what the same sizes come to at once: pruned from
the dense network in one step and repaired with 128 images without labels. A seed is another dense network and another
order of batches.

Each seed is noted in ``results/size_curve`` when it is done, and is not repeated while its note is there.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import nn

import graphprune
from benchmarks.common import RESULTS, quiet_one_thread, row, table, tree, wide_console, write_json
from benchmarks.fifty import NETWORK, TEACHING
from benchmarks.notes import Notes
from benchmarks.tasks import TASKS, Task
from graphprune.plots.figures import COLORS, INK, new_figure, styled

IMAGE = Path(__file__).parents[1] / "docs" / "images" / "size_curve.png"
SMALLEST, WANTED = 200, 100
ONE_POINT = 0.01
SAMPLES = 128
MOST = 0.98
"""Of a layer that may go."""
LARGE, EARLY = 0.1, 3
"""A network with more than this part of the parameters trains for so few epochs: it has lost little."""
KINDS = {"at_once": "at once, repaired", "trained": "in rounds, trained after each"}
DOTS = 80
"""Per inch, so that the file is small."""
TICKS = (1, 2, 5, 10, 20, 50, 100, 200)
LOWEST = 0.9
"""Accuracy that is drawn."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, write ``results/size_curve.json`` and the picture; 1 if 100 times fewer lose over a point."""
    options = _options(arguments)
    quiet_one_thread()
    console = wide_console()
    task = TASKS[NETWORK](options.quick)
    notes = Notes(None if options.quick else RESULTS / "size_curve" / f"{task.name}.jsonl")
    seeds = []
    for seed in range(options.seeds):
        with console.status(f"seed {seed}"):
            seeds.append(notes.once({"seed": seed}, partial(_measured, task, seed, options)))
    middle = medians(seeds)
    console.print(_table(task.name, middle))
    options.image.parent.mkdir(parents=True, exist_ok=True)
    _figure(middle, seeds).savefig(options.image, dpi=DOTS)
    if options.quick:
        return 0
    write_json("size_curve.json", {"seeds": seeds, "medians": middle})
    return 0 if lost(middle, WANTED) <= ONE_POINT else 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="dense networks (default: 3)")
    parser.add_argument("--rounds", type=int, default=8, help="times of pruning and training (default: 8)")
    parser.add_argument("--epochs", type=int, default=8, help="of training where little is left (default: 8)")
    parser.add_argument("--quick", action="store_true", help="two rounds of hardly any training, to try the script")
    parser.add_argument("--image", type=Path, default=IMAGE, metavar="FILE", help="where the picture goes")
    options = parser.parse_args(arguments)
    if options.quick:
        options.rounds, options.seeds = 2, 1
    return options


# ---------------------------------------------------------------- measuring


def _measured(task: Task, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """The dense network's accuracy and, for each round, sizes and accuracies."""
    dense = task.dense(seed)
    samples = task.calibration(8 if options.quick else SAMPLES, seed)
    found = _in_rounds(task, dense, samples, seed, options)
    first = found.dense
    sizes = [
        {
            "fewer": first.params / one.params,
            "fewer_macs": first.macs / one.macs,
            "params": one.params,
            "at_once": task.evaluate(_at_once(task, dense, samples, one.params / first.params)),
            "before": one.before,
            "trained": one.after,
        }
        for one in found.rounds
    ]
    settings = {"rounds": options.rounds, "epochs": options.epochs, "torch": torch.__version__, "tree": tree()}
    return {"dense": first.before, "params": first.params, "sizes": sizes, **settings}


def _in_rounds(
    task: Task, dense: nn.Module, samples: list[Any], seed: int, options: argparse.Namespace
) -> graphprune.IterativeResult:
    return graphprune.prune_iteratively(
        dense,
        task.example_inputs,
        rounds=options.rounds,
        params=1 / SMALLEST,
        max_ratio=MOST,
        calibration=samples,
        evaluate=task.evaluate,
        tune=partial(_tune, task, dense, seed, options.epochs),
        seed=seed,
    )


def _tune(task: Task, dense: nn.Module, seed: int, epochs: int, slim: nn.Module) -> None:
    """Train a pruned network, taught by the dense one; shortly while it is large."""
    sizes = [sum(p.numel() for p in model.parameters()) for model in (slim, dense)]
    large = sizes[0] > LARGE * sizes[1]
    longer = {} if task.quick else {"epochs": EARLY if large else epochs}
    task.tune(slim, seed, teacher=dense, distill=TEACHING, **longer)


def _at_once(task: Task, dense: nn.Module, samples: list[Any], share: float) -> nn.Module:
    return graphprune.prune_model(
        dense, example_inputs=task.example_inputs, params=share, max_ratio=MOST, calibration=samples
    )


# ---------------------------------------------------------------- reporting


def medians(seeds: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    """Of every size the medians over the seeds; the dense network first, as one time fewer."""
    dense = statistics.median(one["dense"] for one in seeds)
    params = statistics.median(one["params"] for one in seeds)
    first = {"fewer": 1.0, "fewer_macs": 1.0, "params": params, **dict.fromkeys(("at_once", "trained"), dense)}
    rounds = zip(*(one["sizes"] for one in seeds), strict=True)
    return [first, *({name: statistics.median(one[name] for one in same) for name in first} for same in rounds)]


def lost(middle: Sequence[Mapping[str, float]], times: float) -> float:
    """What the first size of so many times fewer parameters, or more, has lost of the dense network's accuracy."""
    small = next(one for one in middle if one["fewer"] >= times)
    return middle[0]["trained"] - small["trained"]


def cells(one: Mapping[str, float]) -> list[str]:
    """A line of the table."""
    accuracies = [f"{one[kind]:.2%}" for kind in KINDS]
    return [f"{one['fewer']:.1f}", f"{one['params'] / 1e6:.3f} M", f"{one['fewer_macs']:.1f}", *accuracies]


def _table(name: str, middle: Sequence[Mapping[str, float]]) -> Table:
    made = table(f"{name}: accuracy against size", "times fewer", "parameters", "times fewer MACs", *KINDS.values())
    for one in middle:
        row(made, *cells(one))
    return made


def _figure(middle: Sequence[Mapping[str, float]], seeds: Sequence[Mapping[str, Any]]) -> Any:
    """Accuracy over times fewer parameters; lines join medians, and dots are seeds."""
    figure = new_figure(7, 4)
    axes = styled(figure.add_subplot(xlabel="times fewer parameters", ylabel="test accuracy", xscale="log"))
    times = [one["fewer"] for one in middle]
    for (kind, label), color in zip(KINDS.items(), COLORS, strict=False):
        axes.plot(times, [one[kind] for one in middle], color=color, label=label)
        dots = [(size["fewer"], size[kind]) for one in seeds for size in one["sizes"]]
        axes.scatter(*zip(*dots, strict=True), color=color, s=12)
    axes.axhline(middle[0]["trained"], color=INK, linewidth=0.8, linestyle="--", label="dense")
    axes.set_xticks(TICKS, TICKS)
    axes.minorticks_off()
    axes.set_ylim(LOWEST, 1.005)
    axes.legend(frameon=False, loc="lower left")
    return figure


if __name__ == "__main__":
    sys.exit(main())
