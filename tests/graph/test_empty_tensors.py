"""Tensors without entries: an empty memory that is concatenated and reshaped."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import graphprune


class EmptyMemory(nn.Module):
    """Concatenates a memory of no entries, and reshapes it."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.hidden, self.leave = nn.Linear(8, 16), nn.Linear(16, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        empty = h.new_zeros(1, 0, 16)
        h = torch.cat([h, empty], 1)
        return self.leave(self.hidden(h).relu()) + empty.unsqueeze(1).sum()


def test_a_reshaped_empty_tensor_freezes_only_its_own_channels() -> None:
    net, x = EmptyMemory().eval(), torch.randn(1, 3, 8)
    plan = graphprune.trace(net, x).plan(0.5)
    slim = plan.apply(net)
    assert graphprune.verify(net, slim, plan, x).passed
    assert (slim.enter.out_features, slim.hidden.out_features) == (16, 6)
