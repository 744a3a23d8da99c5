"""The loss where none is given: targets that are no classes are refused, instead of being trained on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from graphprune.errors import InputError
from graphprune.training.cross_entropy import cross_entropy


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_probabilities_of_classes_in_any_precision(dtype: torch.dtype) -> None:
    logits = torch.randn(8, 100)
    target = torch.randn(8, 100).mul(3).softmax(1).to(dtype)
    assert torch.allclose(cross_entropy(logits, target), F.cross_entropy(logits, target))


def test_maps_of_probabilities_have_their_classes_in_the_second_dimension() -> None:
    logits, target = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4).softmax(1)
    assert torch.equal(cross_entropy(logits, target), F.cross_entropy(logits, target))
    with pytest.raises(InputError, match="no probabilities"):
        cross_entropy(logits, target.transpose(1, 3).contiguous().reshape(2, 3, 4, 4))


@pytest.mark.parametrize(
    ("logits", "target", "message"),
    [
        (torch.randn(8), torch.randn(8), "the outputs have no dimension of classes"),
        (torch.randn(8, 1), torch.randn(8, 1), "the outputs have one class"),
        (torch.randn(8, 1), torch.zeros(8, dtype=torch.long), "the outputs have one class"),
        (torch.randn(8, 3), torch.randn(8, 3), "targets of floating-point numbers are no probabilities"),
        (torch.randn(8, 3), torch.tensor([[1.0, 1.0, 0.0]] * 8), "targets of floating-point numbers are no prob"),
        (torch.randn(8, 3), torch.tensor([[2.0, -1.0, 0.0]] * 8), "targets of floating-point numbers are no prob"),
    ],
)
def test_numbers_that_say_nothing(logits: Tensor, target: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=rf"loss_fn: is not given[\s\S]*{message}[\s\S]*do: *pass loss_fn=[\s\S]*mse"):
        cross_entropy(logits, target)


def test_targets_of_another_form() -> None:
    with pytest.raises(InputError, match="batches: cross entropy of the outputs and the targets of a batch failed"):
        cross_entropy(torch.randn(8, 3), torch.zeros(5, dtype=torch.long))
