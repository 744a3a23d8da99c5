"""Caches and other objects among the inputs of batches that are trained on."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

import graphprune


class Remembering(nn.Module):
    """A layer that appends what it reads to a list of the caller's."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, memory: Any) -> Tensor:
        memory.seen.append(x)
        return self.second(self.first(sum(memory.seen)).relu())  # type: ignore[no-any-return]


def test_training_gives_every_step_and_the_teacher_caches_of_their_own() -> None:
    torch.manual_seed(0)
    memory, teacher = SimpleNamespace(seen=[torch.ones(3, 4)]), Remembering()
    batch = ((torch.randn(3, 4), memory), torch.randn(3, 2))
    model = copy.deepcopy(teacher)
    graphprune.finetune(model, [batch], epochs=2, lr=1e-9, loss_fn=nn.functional.mse_loss, teacher=teacher)
    assert len(memory.seen) == 1
    seen: list[int] = []
    for one in (model, teacher):
        one.first.register_forward_pre_hook(lambda _, inputs: seen.append(round(float(inputs[0].sum()), 4)))
    graphprune.finetune(model, [batch], epochs=2, lr=1e-9, loss_fn=nn.functional.mse_loss, teacher=teacher)
    assert len(seen) == 4 and len(set(seen)) == 1


class Prompted(nn.Module):
    """A layer that adds what an object of the caller's holds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, prompt: Any) -> Tensor:
        return self.second(self.first(x + prompt.entries).relu())  # type: ignore[no-any-return]


def test_parameters_in_objects_of_batches_get_gradients() -> None:
    prompt = SimpleNamespace(entries=nn.Parameter(torch.zeros(4)))
    batch = ((torch.randn(3, 4), prompt), torch.randn(3, 2))
    graphprune.finetune(Prompted(), [batch], epochs=1, lr=0.1, loss_fn=nn.functional.mse_loss)
    assert prompt.entries.grad is not None
