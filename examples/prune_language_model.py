"""Prune half of the MACs of a small language model that was trained on Python's standard library, and repair it.

No training follows: the repair sees 128 pieces of text, and solves for weights. Then the three continue a text.
Run from the repository root: python examples/prune_language_model.py (the first time it trains the dense model, for
half a minute on one core).
"""

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # `benchmarks` belongs to the repository, not to the package

import graphprune
from benchmarks.tasks import TASKS, Task

BEGINNING = "def __init__(self, "


@torch.no_grad()
def continued(model: nn.Module, text: str, count: int = 40) -> str:
    """The text and the most likely bytes after it, on one line."""
    ids = torch.tensor([list(text.encode())])
    for _ in range(count):
        ids = torch.cat((ids, model(ids[:, -128:])[:, -1:].argmax(-1)), dim=1)
    return repr(bytes(ids[0].tolist()).decode(errors="replace"))


def show(name: str, task: Task, model: nn.Module) -> None:
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{name:<10}{parameters:>10,}{task.evaluate(model):>15.3f}  {continued(model, BEGINNING)}")


def main(quick: bool = False) -> None:
    task = TASKS["text-gpt"](quick)
    task.training = {**task.training, "steps": 150}  # a fifth of what the benchmarks take
    dense = task.dense(seed=0)
    samples = task.calibration(8 if quick else 128, seed=0)
    print(f"{'model':<10}{'parameters':>10}{'bits per byte':>15}  continues")
    show("dense", task, dense)
    show("pruned", task, graphprune.prune_model(dense, example_inputs=samples[0][:1], macs=0.5))
    show("repaired", task, graphprune.prune_model(dense, example_inputs=samples[0][:1], macs=0.5, calibration=samples))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
