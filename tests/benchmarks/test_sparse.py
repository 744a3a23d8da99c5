"""The benchmarks of zeros: files near their bound, and forms of a network that compute the same."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from benchmarks.sparse_files import measured
from benchmarks.sparse_speed import forms_of, refusal


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("amount", [0.5, 0.9, 0.98])
def test_files_are_within_ten_percent_of_the_bound(amount: float, dtype: torch.dtype) -> None:
    found = measured("LSTM", partial(nn.LSTM, 96, 192, 2), amount, dtype)
    assert 1 <= found["of_bound"] < 1.10
    assert found["bytes"] <= found["bitmap"] * 1.02 + 600


def test_forms_compute_the_same() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 10)).eval(), torch.randn(1, 32)
    forms = forms_of(model, x, 0.8)
    assert list(forms) == ["dense", "masked", "zeros", "CSR", "structured"]
    assert torch.equal(forms["masked"](x), forms["zeros"](x))
    assert torch.allclose(forms["CSR"](x), forms["zeros"](x), atol=1e-6)
    assert sum(p.numel() for p in forms["structured"].parameters()) <= 0.2 * sum(p.numel() for p in model.parameters())
    assert refusal()
