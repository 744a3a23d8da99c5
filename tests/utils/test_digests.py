"""Data are known again in whichever order they come."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from graphprune.utils.digests import digest


def test_order_and_batches_do_not_count() -> None:
    x, y = torch.randn(12, 3), torch.arange(12)
    loader = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
    assert digest(loader) == digest(loader) == digest([(x, y)]) == digest([(x[:5], y[:5]), (x[5:], y[5:])])


def test_what_belongs_together_counts() -> None:
    x, y = torch.randn(12, 3), torch.arange(12)
    assert digest([(x, y)]) != digest([(x, y.flip(0))])
    assert digest([x]) != digest([x[:-1]])
    assert digest([x]) != digest([torch.cat([x[:-1], x[:1]])])
    assert digest([x, x]) != digest([])


@pytest.mark.parametrize(
    "batch",
    [
        torch.tensor(3.0),
        {"x": torch.randn(2, 3), "mask": torch.ones(3)},
        torch.eye(3).to_sparse(),
        (torch.randn(2, 3).to(torch.bfloat16), None, "text"),
        torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(4, 3)], layout=torch.jagged),
    ],
)
def test_batches_of_all_kinds(batch: Any) -> None:
    assert digest([batch]) == digest([batch])
