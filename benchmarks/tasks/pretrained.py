"""What tasks with published weights share: a dense network that nobody trains here, and splits by name."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import nn

from benchmarks.tasks.task import Pair, Task

SPLITS = ("training", "validation", "test")
VALIDATION, TEST = 15, 30
"""Of a hundred names, so many are for validation, and so many for testing."""

Item = TypeVar("Item")


def split_of(name: str) -> str:
    """Decided by the name alone, so that no other name matters."""
    number = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100
    return "validation" if number < VALIDATION else "test" if number < VALIDATION + TEST else "training"


def drawn(items: Sequence[Item], count: int, seed: int) -> list[Item]:
    """So many of the items, or all, in an order that follows from the seed."""
    order = torch.randperm(len(items), generator=torch.Generator().manual_seed(seed))
    return [items[i] for i in order[:count].tolist()]


@dataclass(frozen=True)
class Answered:
    """Shuffled training inputs with the dense network's own hard answers: what tuning learns from without labels."""

    task: Pretrained
    samples: int

    def __len__(self) -> int:
        return len(self.task.answers(self.task.dense(0), self.samples, 0))

    def __iter__(self) -> Iterator[Pair]:
        seed = int(torch.randint(1 << 31, ()))
        yield from self.task.answers(self.task.dense(seed), self.samples, seed)


class Pretrained(Task):
    """A task whose dense network is the published one, whatever the seed; a seed draws the calibration samples.

    Nothing has labels but what the network is judged by; ``labeled`` gives the dense network's hard answers. A task
    has to give ``fresh`` (with the published weights), ``example_inputs``, ``calibration``, ``decide``, ``loss`` and
    ``judge``.
    """

    training: Mapping[str, Any] = {}
    tuning: Mapping[str, Any] = {"optimizer": "adamw", "lr": 2e-4, "weight_decay": 0.01, "warmup": 10, "steps": 60}
    package: ClassVar[tuple[str, ...]]
    """Files below ``build/real`` that the task needs."""

    def dense(self, seed: int) -> nn.Module:
        return self.fresh().eval()

    @property
    def batches(self) -> Answered:
        return Answered(self, 16 if self.quick else 512)

    def labeled(self, samples: int, seed: int) -> list[Pair]:
        return self.answers(self.dense(seed), samples, seed)

    @abstractmethod
    def judge(self, model: nn.Module, split: str) -> float:
        """The metric on the ``"validation"`` or the ``"test"`` split."""

    def evaluate(self, model: nn.Module) -> float:
        return self.judge(model, "test")

    def validate(self, model: nn.Module) -> float:
        return self.judge(model, "validation")
