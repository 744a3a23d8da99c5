"""How many samples judge a slim model."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphprune.evolution import judging
from graphprune.evolution.judging import QUICK_SAMPLES, THOROUGH_SAMPLES, CandidateJudge


class Counting(nn.Module):
    """Counts the samples that go through it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.samples = nn.Linear(3, 5), 0

    def forward(self, x: Tensor) -> Tensor:
        self.samples += len(x)
        return self.layer(x)


def judged(batches: Sequence[Tensor], samples: int) -> int:
    dense, slim = Counting(), Counting()
    CandidateJudge(dense, batches, None, samples).loss(slim)
    assert slim.samples == dense.samples
    return slim.samples


@pytest.mark.parametrize(
    ("batches", "size", "few", "many"),
    [(2, 8, 16, 16), (40, 32, 64, 512), (3, 1000, 1000, 1000), (300, 1, 16, 128), (100, 4, 64, 400)],
)
def test_so_many_samples_judge(batches: int, size: int, few: int, many: int) -> None:
    made = [torch.randn(size, 3) for _ in range(batches)]
    assert (judged(made, QUICK_SAMPLES), judged(made, THOROUGH_SAMPLES)) == (few, many)


def test_outputs_that_are_held_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [torch.randn(32, 3) for _ in range(40)]
    judge = CandidateJudge(Counting(), batches, None)
    assert judge.affordable(THOROUGH_SAMPLES) == THOROUGH_SAMPLES
    monkeypatch.setattr(judging, "HELD", 2 * 64 * 5 * 4)
    assert judge.affordable(THOROUGH_SAMPLES) == 128
    monkeypatch.setattr(judging, "HELD", 1)
    assert judge.affordable(THOROUGH_SAMPLES) == QUICK_SAMPLES


def test_a_loss_holds_no_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(torch.randn(32, 3), torch.zeros(32, 5))] * 40
    monkeypatch.setattr(judging, "HELD", 1)
    assert CandidateJudge(Counting(), pairs, F.mse_loss).affordable(THOROUGH_SAMPLES) == THOROUGH_SAMPLES
