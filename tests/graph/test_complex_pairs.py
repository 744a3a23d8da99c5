"""Channels that are seen as pairs of real and imaginary parts go by pairs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphprune


def neighbors(y: Tensor) -> Tensor:
    return torch.view_as_complex(y.view(y.shape[0], -1, 2)).abs()


def halves(y: Tensor) -> Tensor:
    return torch.view_as_complex(y.view(y.shape[0], 2, -1).mT.contiguous()).abs()


def back(y: Tensor) -> Tensor:
    return torch.view_as_real(torch.view_as_complex(y.view(y.shape[0], -1, 2)) ** 2).sum(-1)


class Pairs(nn.Module):
    """Sixteen channels that become eight complex numbers."""

    def __init__(self, paired: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave, self.paired = nn.Linear(5, 16), nn.Linear(8, 3), paired

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.leave(self.paired(self.enter(x)))
        return result


@pytest.mark.parametrize("paired", [neighbors, halves, back])
def test_pairs_go_together(paired: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    model, x = Pairs(paired).eval(), torch.randn(4, 5)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert (slim.enter.out_features, slim.leave.in_features) == (8, 4)
    assert graphprune.verify(model, slim, plan, x).passed
