"""Is the advice good? Small trained networks, pruned as advised and in other ways, at one cost and with the same data.

``graphprune.advise`` sees the dense network and 128 samples without labels. Everything is then pruned to the same MACs,
repaired with the same samples, and judged on test data that nothing has seen: at once, and for some after the same
training. *Rounds* compares one-shot pruning with rounds, with equally many steps of training in all. The dense networks
are trained once (two minutes); what was measured is noted in ``results/advice`` and not measured again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

import graphprune
from benchmarks.common import RESULTS, quiet_one_thread, row, table, wide_console, write_json
from benchmarks.notes import Notes
from benchmarks.tasks import TASKS, Task
from graphprune.advice.topics import rounds_for

NETWORKS = ("small-cnn", "small-resnet", "small-vit", "small-gpt")
SHARES = (0.5, 0.25)
SAMPLES = 128
ADVISED = "advised"
OTHERS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "wanda": {"importance": "wanda"},
    "uniform": {"allocation": "uniform"},
    "isomorphic": {"allocation": "isomorphic"},
    "gentle ends": {"protect_ends": True},
    "a quarter of the blocks": {"depth": 0.26},
    "random": {"importance": "random"},
}
"""Arguments of plans besides the budget and the samples."""
TRAINED = (ADVISED, "default", "random")
"""What is trained again."""
ROUNDED = ("small-cnn", "small-resnet", "small-vit")
ROUND_SHARES = (0.5, 0.1)
"""Where rounds are compared."""
NOISE = 0.1
"""A rise of the loss that is larger by at most this fraction is the same."""

Measure = Callable[[Task, nn.Module, float, int], list[dict[str, Any]]]
"""``(task, dense, share, seed)`` -> a record for each run."""


def main(arguments: list[str] | None = None) -> int:
    """Print the tables; write ``results/advice.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="TEXT", help="only the networks whose name contains this")
    parser.add_argument("--seeds", type=int, default=1, help="dense networks of each kind (default: 1)")
    parser.add_argument("--quick", action="store_true", help="hardly trained networks, to try the script")
    options = parser.parse_args(arguments)
    quiet_one_thread()
    console = wide_console()
    results: list[dict[str, Any]] = []
    rounds: list[dict[str, Any]] = []
    for name in (n for n in NETWORKS if options.only in n):
        for seed in range(options.seeds):
            task = TASKS[name](options.quick)
            with console.status(f"{name}, seed {seed}"):
                results += noted("ways", task, seed, SHARES, compared)
                if name in ROUNDED:
                    rounds += noted("rounds", task, seed, ROUND_SHARES, in_rounds)
        for share in SHARES:
            print_table(console, [r for r in results if (r["network"], r["share"]) == (name, share)])
        if name in ROUNDED:
            print_rounds(console, [r for r in rounds if r["network"] == name])
    print(summary(results))
    if not options.only and not options.quick:
        settings = {"torch": torch.__version__, "samples": SAMPLES, "seeds": options.seeds}
        write_json("advice.json", settings | {"results": results, "rounds": rounds})
    return 0


# ---------------------------------------------------------------- measuring


def noted(part: str, task: Task, seed: int, shares: Sequence[float], measure: Measure) -> list[dict[str, Any]]:
    """What was measured for every share; what is noted in ``results/advice`` is not measured again."""
    notes = Notes(None if task.quick else RESULTS / "advice" / f"{task.name}-{seed}.jsonl")
    found: list[dict[str, Any]] = []
    for share in shares:
        key = {"part": part, "share": share}
        found += notes.once(key, lambda share=share: {"runs": measure(task, task.dense(seed), share, seed)})["runs"]
    return found


def compared(task: Task, dense: nn.Module, share: float, seed: int) -> list[dict[str, Any]]:
    """What each way comes to, at once and trained again."""
    data = task.calibration(8 if task.quick else SAMPLES, seed)
    advice = graphprune.advise(
        dense, task.example_inputs, data=data, target={"macs": share}, seconds=1 if task.quick else 600
    )
    own = {k: v for k, v in advice.arguments.items() if k not in ("macs", "calibration")}
    found = []
    for way, asked in {ADVISED: own, **OTHERS}.items():
        made = {"network": task.name, "share": share, "seed": seed, "way": way, "arguments": dict(asked)}
        made["dense"] = task.evaluate(dense)
        try:
            slim = graphprune.prune_model(
                dense, example_inputs=task.example_inputs, macs=share, calibration=data, **asked
            )
        except graphprune.GraphpruneError as error:
            found.append(made | {"once": None, "error": str(error).partition("\n")[0]})
            continue
        made["once"] = task.evaluate(slim)
        if way in TRAINED:
            task.tune(slim, seed)
            made["tuned"] = task.evaluate(slim)
        found.append(made)
    return found


def in_rounds(task: Task, dense: nn.Module, share: float, seed: int) -> list[dict[str, Any]]:
    """One-shot and in several rounds, with the same samples and equally many steps of training in all."""
    data = task.calibration(8 if task.quick else SAMPLES, seed)
    steps = 2 if task.quick else _steps(task)
    found = []
    for rounds in (1, max(rounds_for(share), 2)):

        def tune(model: nn.Module, steps: int = max(steps // rounds, 1)) -> None:
            task.tune(model, seed, epochs=None, steps=steps, warmup=min(5, steps - 1), teacher=dense)

        result = graphprune.prune_iteratively(
            dense, task.example_inputs, rounds=rounds, tune=tune, macs=share, calibration=data
        )
        made = {"network": task.name, "share": share, "seed": seed, "rounds": rounds}
        found.append(made | {"loss": task.evaluate(result.model), "dense": task.evaluate(dense)})
    return found


def _steps(task: Task) -> int:
    """The steps of training again."""
    given = task.tuning
    return int(given.get("steps") or given["epochs"] * len(task.batches))  # type: ignore[arg-type]


# ---------------------------------------------------------------- reporting


def print_table(console: Any, found: Sequence[Mapping[str, Any]]) -> None:
    first = found[0]
    title = f"{first['network']}, {first['share']:.0%} of the MACs: test loss (dense {_mean(found, 'dense'):.4f})"
    made = table(title, "way", "at once", "trained again", "arguments", left=1)
    for way in dict.fromkeys(r["way"] for r in found):
        mine = [r for r in found if r["way"] == way]
        row(
            made,
            way,
            _cell(mine, "once"),
            _cell(mine, "tuned"),
            ", ".join(f"{k}={v}" for k, v in mine[0]["arguments"].items()),
        )
    console.print(made)


def print_rounds(console: Any, found: Sequence[Mapping[str, Any]]) -> None:
    made = table(f"{found[0]['network']}: rounds, equally many steps of training", "MACs", "rounds", "loss", left=0)
    for share, rounds in dict.fromkeys((r["share"], r["rounds"]) for r in found):
        row(made, share, rounds, _cell([r for r in found if (r["share"], r["rounds"]) == (share, rounds)], "loss"))
    console.print(made)


def _cell(found: Sequence[Mapping[str, Any]], name: str) -> str:
    if any(r.get("error") for r in found):
        return "no plan"
    return f"{_mean(found, name):.4f}" if all(name in r for r in found) else ""


def _mean(found: Sequence[Mapping[str, Any]], name: str) -> float:
    return sum(r[name] for r in found) / len(found)


def summary(results: Sequence[Mapping[str, Any]]) -> str:
    """In how many comparisons the advice is the best, or no worse than noise."""
    cases = dict.fromkeys((r["network"], r["share"], r["seed"]) for r in results)
    best = near = better = 0
    for case in cases:
        mine = [r for r in results if (r["network"], r["share"], r["seed"]) == case and r["once"] is not None]
        rises = {r["way"]: r["once"] - r["dense"] for r in mine}
        least = min(rises.values())
        best += rises[ADVISED] <= least
        near += rises[ADVISED] <= least + NOISE * abs(least)
        better += rises[ADVISED] <= rises["default"]
    return (
        f"Of {len(cases)} comparisons the advice is the best in {best}, within {NOISE:.0%} of the best rise of the "
        f"loss in {near}, and no worse than the default in {better}."
    )


if __name__ == "__main__":
    sys.exit(main())
