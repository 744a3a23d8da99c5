"""Consumers that are one vector: ``hidden @ self.v``, as in additive attention."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune

X = torch.randn(8, 6, 5, generator=torch.Generator().manual_seed(0))
Read = Callable[[Tensor, Tensor], Tensor]
READS: dict[str, Read] = {
    "matmul": lambda h, v: h @ v,
    "linear": F.linear,
    "einsum": lambda h, v: torch.einsum("bnd,d->bn", h, v),
    "from the left": lambda h, v: v @ h.mT,
}


class Pointer(nn.Module):
    def __init__(self, read: Read) -> None:
        super().__init__()
        self.enter, self.hidden, self.read = nn.Linear(5, 12), nn.Linear(12, 16), read
        self.v = nn.Parameter(torch.randn(16))

    def forward(self, x: Tensor) -> Tensor:
        return self.read(torch.tanh(self.hidden(self.enter(x).relu())), self.v)


@pytest.mark.parametrize("criterion", ["kfac", "surgeon", "auto"])
@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_criteria_of_curvature_read_them(read: Read, criterion: str) -> None:
    slim = graphprune.prune_model(Pointer(read).eval(), 0.5, X, calibration=[X], importance=criterion)
    assert slim.hidden.out_features == 8 and slim.v.shape == (8,)


@pytest.mark.parametrize("read", [READS["matmul"], F.linear, READS["from the left"]])
def test_channels_that_are_equal_fold_into_them(read: Read) -> None:
    model = Pointer(read).eval()
    with torch.no_grad():
        model.hidden.weight[8:], model.hidden.bias[8:] = model.hidden.weight[:8], model.hidden.bias[:8]
    plan = graphprune.trace(model, X).plan_from_kept({"hidden": range(8)})
    slim = plan.apply(model)
    graphprune.fold(slim, model, plan, X, ridge=1e-8)
    torch.testing.assert_close(slim(X), model(X), rtol=1e-4, atol=1e-4)
