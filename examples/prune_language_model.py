"""Train a small language model on Python's standard library, prune half of its MACs, and repair it.

No training follows: the repair sees pieces of text, and solves for weights. Then the three continue a text.
Run from the repository root: python examples/prune_language_model.py [--full]. As it is, it trains two narrow blocks
for 400 steps of two texts, and ends in ten seconds on one core; with --full it trains the network of the benchmarks
for 400 steps of sixteen, and repairs it with 128 pieces of text instead of 32.
"""

import sys
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # `models` and `benchmarks` belong to the repository only

import graphprune
from benchmarks.tasks.text import CONTEXT, Text, Windows
from models.gpt import gpt

BEGINNING = "class Error("


@torch.no_grad()
def continued(model: nn.Module, text: str, count: int = 40) -> str:
    """The text and the most likely bytes after it, on one line."""
    ids = torch.tensor([list(text.encode())])
    for _ in range(count):
        ids = torch.cat((ids, model(ids[:, -CONTEXT:])[:, -1:].argmax(-1)), dim=1)
    return repr(bytes(ids[0].tolist()).decode(errors="replace"))


def row(name: str, task: Text, model: nn.Module) -> str:
    parameters = sum(p.numel() for p in model.parameters())
    return f"{name:<10}{parameters:>10,}{task.evaluate(model):>15.3f}  {continued(model, BEGINNING)}"


torch.set_num_threads(1)
torch.manual_seed(0)
task, full = Text(), "--full" in sys.argv[1:]
dense = task.fresh() if full else gpt(dim=48, depth=2, heads=8, kv_heads=4, mlp_dim=128, context=CONTEXT)
training = {**task.training, "steps": 400, "warmup": 20, "loss_fn": task.loss, "progress": False}
graphprune.finetune(dense, Windows(task.batches.text, batch_size=16 if full else 2), **training)
samples = task.calibration(128 if full else 32, seed=0)
pruned = graphprune.prune_model(dense.eval(), example_inputs=samples[0][:1], macs=0.5)
repaired = graphprune.prune_model(dense, example_inputs=samples[0][:1], macs=0.5, calibration=samples)
print(f"{'model':<10}{'parameters':>10}{'bits per byte':>15}  continues")
for name, model in {"dense": dense, "pruned": pruned, "repaired": repaired}.items():
    print(row(name, task, model))
