"""Sequences that ``pad_sequence`` and ``pack_sequence`` put side by side are as wide as their features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence, pad_sequence

import graphprune

X = torch.randn(3, 4, 5)


class Net(nn.Module):
    """Features of sequences, put side by side by a function."""

    def __init__(self, gather: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave, self.gather = nn.Linear(5, 16), nn.Linear(16, 2), gather
        if gather is packed:
            self.layer = nn.GRU(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.leave(self.gather(self, self.enter(x)))
        return found


def shorter(h: Tensor) -> list[Tensor]:
    return [one[: len(one) - number] for number, one in enumerate(h)]


def packed(net: Net, h: Tensor) -> Tensor:
    found: Tensor = pad_packed_sequence(net.layer(pack_sequence(shorter(h)))[0])[0]
    return found


@pytest.mark.parametrize(
    "gather",
    [
        lambda net, h: pad_sequence(shorter(h)),
        lambda net, h: pad_sequence(tuple(shorter(h)), batch_first=True, padding_value=2.0),
        lambda net, h: pad_sequence(shorter(h), padding_side="left"),
        lambda net, h: pad_sequence([one.unsqueeze(1) for one in shorter(h)], batch_first=True).squeeze(2),
        packed,
    ],
)
def test_the_width_of_features_follows(gather: Callable[[Net, Tensor], Tensor]) -> None:
    model = Net(gather).double().eval()
    plan = graphprune.trace(model, X.double()).plan(0.5)
    slim: Any = plan.apply(model)
    assert slim.enter.out_features == 8
    assert graphprune.verify(model, slim, plan, X.double()).passed
