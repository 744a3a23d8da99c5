"""Values are the same where NaN stands in the same places."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphprune.utils.equality import same_values

NAN = float("nan")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.complex64])
def test_nan_is_the_same_as_nan(dtype: torch.dtype) -> None:
    one = torch.tensor([0.0, NAN, 1.0], dtype=dtype)
    assert same_values(one, one.clone())
    assert not same_values(one, torch.tensor([NAN, 0.0, 1.0], dtype=dtype))
    assert not same_values(one, torch.tensor([0.0, NAN, 2.0], dtype=dtype))
    assert not same_values(one, one[:2])


def test_the_parts_of_a_complex_number_are_compared() -> None:
    def number(imaginary: float) -> Tensor:
        return torch.complex(torch.tensor(NAN), torch.tensor(imaginary))

    assert same_values(number(1.0), number(1.0))
    assert not same_values(number(1.0), number(2.0))


def test_integers() -> None:
    assert same_values(torch.arange(3), torch.arange(3))
    assert not same_values(torch.arange(3), torch.arange(1, 4))


@pytest.mark.filterwarnings("ignore:Sparse CS. tensor support")  # torch warns of the first
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_sparse_tensors_are_compared_by_the_entries_that_they_store(layout: torch.layout) -> None:
    one = torch.tensor([[0.0, NAN], [1.0, 0.0]])
    assert same_values(one.to_sparse(layout=layout), one.clone().to_sparse(layout=layout))
    assert not same_values(one.to_sparse(layout=layout), one.t().to_sparse(layout=layout))
    assert not same_values(one.to_sparse(layout=layout), one[:1].to_sparse(layout=layout))
