"""What is measured of models that draw random numbers in evaluation mode follows from seeds alone."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphprune
from graphprune.advice.judging import make_judge


class Drawing(nn.Module):
    """An autoencoder that samples its code, with dropout that is always on."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.mean, self.leave = nn.Linear(5, 16), nn.Linear(16, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        code = self.mean(F.dropout(self.enter(x).relu(), 0.2))
        noise = np.random.rand() + torch.randn(len(x), 1)
        out: Tensor = self.leave((code + noise).tanh())
        return out


def squared(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


REQUESTS: dict[str, dict[str, Any]] = {
    "wanda": {"importance": "wanda"},
    "flap": {"importance": "flap"},
    "taylor": {"importance": "taylor"},
    "auto": {"importance": "auto"},
    "a negative seed": {"importance": "taylor", "seed": -1},
    "searched": {"importance": "obs", "allocation": "searched", "candidates": 8},
    "searched by a loss": {"importance": "taylor", "allocation": "searched", "candidates": 8, "loss_fn": squared},
}


@pytest.mark.parametrize("name", REQUESTS)
def test_plans_do_not_depend_on_the_state_of_the_generators(name: str) -> None:
    torch.manual_seed(0)
    model = Drawing()
    batches: list[Any] = [torch.randn(16, 5) for _ in range(4)]
    if "loss_fn" in REQUESTS[name]:
        batches = [(batch, batch) for batch in batches]
    graph, found = graphprune.trace(model, torch.randn(2, 5)), []
    for seed in range(3):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        before = torch.get_rng_state()
        found.append(graph.plan(0.5, calibration=batches, **REQUESTS[name]).to_json())
        assert torch.equal(before, torch.get_rng_state())
    assert found[0] == found[1] == found[2]


def test_advice_compares_models_with_the_same_draws() -> None:
    torch.manual_seed(0)
    model, batches = Drawing(), [torch.randn(16, 5) for _ in range(4)]
    assert make_judge(model, batches, None, None).loss(model) == 0
    pairs = [(batch, batch) for batch in batches]
    judge = make_judge(model, pairs, squared, None)
    assert judge.loss(model) == judge.loss(model)
