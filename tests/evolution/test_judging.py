"""How many samples judge a slim model."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphprune.evolution import judging
from graphprune.evolution.judging import QUICK_SAMPLES, THOROUGH_SAMPLES, CandidateJudge


def judged(batches: Sequence[Tensor], samples: int) -> int:
    """The samples that go through the dense and the slim model each."""
    models, seen = (nn.Linear(3, 5), nn.Linear(3, 5)), ([0], [0])
    for model, count in zip(models, seen, strict=True):
        model.register_forward_hook(lambda _, given, output, count=count: count.append(len(output)))
    CandidateJudge(models[0], batches, None, samples).loss(models[1])
    assert sum(seen[0]) == sum(seen[1])
    return sum(seen[0])


@pytest.mark.parametrize(
    ("batches", "size", "few", "many"),
    [(2, 8, 16, 16), (40, 32, 64, 512), (3, 1000, 1000, 1000), (300, 1, 16, 128), (100, 4, 64, 400)],
)
def test_so_many_samples_judge(batches: int, size: int, few: int, many: int) -> None:
    made = [torch.randn(size, 3) for _ in range(batches)]
    assert (judged(made, QUICK_SAMPLES), judged(made, THOROUGH_SAMPLES)) == (few, many)


def test_outputs_that_are_held_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = [torch.randn(32, 3) for _ in range(40)]
    judge = CandidateJudge(nn.Linear(3, 5), batches, None)
    assert judge.affordable(THOROUGH_SAMPLES) == THOROUGH_SAMPLES
    monkeypatch.setattr(judging, "HELD", 2 * 64 * 5 * 4)
    assert judge.affordable(THOROUGH_SAMPLES) == 128
    monkeypatch.setattr(judging, "HELD", 1)
    assert judge.affordable(THOROUGH_SAMPLES) == QUICK_SAMPLES


def test_only_what_is_picked_counts() -> None:
    models, batches = [nn.Linear(3, 5), nn.Linear(3, 4)], [torch.randn(32, 3)]
    assert CandidateJudge(models[0], batches, None).loss(models[1]) == float("inf")
    assert CandidateJudge(models[0], batches, None, pick=lambda y: y.mean(1)).loss(models[1]) < float("inf")


def test_a_loss_holds_no_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(torch.randn(32, 3), torch.zeros(32, 5))] * 40
    monkeypatch.setattr(judging, "HELD", 1)
    assert CandidateJudge(nn.Linear(3, 5), pairs, F.mse_loss).affordable(THOROUGH_SAMPLES) == THOROUGH_SAMPLES
