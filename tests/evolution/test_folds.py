"""Slim models are fitted on one half of the calibration batches and judged on the other."""

from __future__ import annotations

import torch
from torch import nn

from graphprune.evolution.folds import folds


def test_each_half_judges_once() -> None:
    batches = list(torch.arange(5.0)[:, None])
    first, second = folds(nn.Identity(), batches)
    assert [float(batch) for batch in first.fitting] == [0, 2, 4] == [float(batch) for batch in second.judging]
    assert [float(batch) for batch in first.judging] == [1, 3] == [float(batch) for batch in second.fitting]


def test_a_single_batch_is_halved_with_its_targets() -> None:
    first, second = folds(nn.Identity(), [(torch.arange(10.0).reshape(5, 2), torch.arange(5))], paired=True)
    ((inputs, target),) = first.judging
    assert torch.equal(inputs, torch.tensor([[4.0, 5.0], [6.0, 7.0], [8.0, 9.0]]))
    assert torch.equal(target, torch.arange(2, 5))
    assert len(second.judging[0][1]) == 2


def test_a_single_sample_does_both() -> None:
    (only,) = folds(nn.Linear(3, 2), [torch.randn(1, 3)])
    assert only.fitting is only.judging
