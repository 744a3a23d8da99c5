"""Vectors laid on a diagonal lose the row and the column of every entry that goes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import graphprune

X = torch.randn(5, 8)


class Decomposed(nn.Module):
    """A weight that is held as singular vectors and values, and gates on a diagonal."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.gate, self.leave = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.u, self.s, self.v = (nn.Parameter(torch.randn(n)) for n in ((16, 12), (12,), (12, 16)))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.enter(x)) @ (self.u @ torch.diag(self.s) @ self.v).T
        gates = torch.diag_embed(torch.sigmoid(self.gate(y)))
        found: Tensor = self.leave((gates @ y.unsqueeze(-1)).squeeze(-1))
        return found


def test_a_decomposed_weight_loses_rank_and_channels() -> None:
    model = Decomposed().eval()
    plan = graphprune.trace(model, X).plan(0.5)
    slim = plan.apply(model)
    assert [tuple(p.shape) for p in (slim.u, slim.s, slim.v)] == [(8, 6), (6,), (6, 8)]
    assert graphprune.verify(model, slim, plan, X).passed
    assert slim(torch.randn(3, 8)).shape == (3, 4)
