"""The bytes of Python's standard library, and a small GPT with grouped-query attention that foretells them."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.tasks.library import HELD_OUT, TEST, VALIDATION, texts
from benchmarks.tasks.task import Pair, SplitTask, each_output
from models.gpt import gpt

CONTEXT = 128


@cache
def load(*parts: int) -> Tensor:
    """All bytes of these parts of the library, [n] of uint8."""
    return torch.from_numpy(np.frombuffer("\n".join(texts(parts.__contains__)).encode(), dtype=np.uint8).copy())


def windows(text: Tensor, starts: Tensor) -> Pair:
    """The bytes from each start on, and the bytes that follow them: [n, CONTEXT] of int64 both."""
    found = text[starts[:, None] + torch.arange(CONTEXT + 1)].long()
    return found[:, :-1], found[:, 1:]


@dataclass(frozen=True)
class Windows:
    """A hundred batches of windows from anywhere, anew each time they are read."""

    text: Tensor
    batch_size: int

    def __len__(self) -> int:
        return 100

    def __iter__(self) -> Iterator[Pair]:
        for _ in range(len(self)):
            yield windows(self.text, torch.randint(len(self.text) - CONTEXT, (self.batch_size,)))


class Text(SplitTask):
    """Foretell the next byte; measured in bits per byte of held-out files.

    Args:
        kv_heads: heads of keys and values, for eight of queries.
    """

    metric: ClassVar[str] = "bits per byte"
    higher: ClassVar[bool] = False
    training: Mapping[str, Any] = {
        "optimizer": "adamw",
        "lr": 4e-3,
        "weight_decay": 0.1,
        "warmup": 50,
        "steps": 800,
        "clip": 1.0,
    }
    tuning: Mapping[str, Any] = {**training, "lr": 1e-3, "warmup": 10, "steps": 100}

    def __init__(self, quick: bool = False, kv_heads: int = 4) -> None:
        super().__init__(quick)
        self.name = "text-gpt" if kv_heads == 4 else f"text-gpt-{kv_heads}kv"
        self._kv_heads = kv_heads
        self._learned, self._tested = tuple(part for part in range(HELD_OUT) if part != TEST), TEST

    def validating(self) -> Text:
        found = copy.copy(self)
        found.name = f"{self.name}-validation"
        found._learned, found._tested = tuple(part for part in self._learned if part != VALIDATION), VALIDATION
        return found

    def fresh(self) -> nn.Module:
        return gpt(dim=96, depth=4, heads=8, kv_heads=self._kv_heads, mlp_dim=256, context=CONTEXT)

    @property
    def example_inputs(self) -> Tensor:
        return windows(load(self._tested), torch.tensor([0]))[0]

    @property
    def batches(self) -> Windows:
        return Windows(load(*self._learned), 2 if self.quick else 16)

    def labeled(self, samples: int, seed: int) -> list[Pair]:
        text = load(*self._learned)
        starts = torch.randint(len(text) - CONTEXT, (samples,), generator=torch.Generator().manual_seed(seed))
        return [windows(text, part) for part in starts.split(32)]

    @staticmethod
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output.flatten(0, 1), target.flatten())

    def evaluate(self, model: nn.Module) -> float:
        text, count = load(self._tested), 4 if self.quick else 384
        starts = torch.linspace(0, len(text) - CONTEXT - 1, count, dtype=torch.float64).long()
        losses = each_output(model, starts.split(32), lambda m, part: _losses(m, *windows(text, part)))
        return losses.mean().item() / math.log(2)


def _losses(model: nn.Module, inputs: Tensor, target: Tensor) -> Tensor:
    """In nats, of each byte."""
    return F.cross_entropy(model(inputs).flatten(0, 1), target.flatten(), reduction="none")
