"""What a layer gives stays where it only decides on a way: on the other one it may be returned, as an early exit is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import graphprune
from graphprune.graph.unread import DECIDES

X = torch.randn(3, 5)


class Exit(nn.Module):
    """Returns what a small head gives if that is sure of itself."""

    def __init__(self, sure: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.enter, self.between, self.leave = nn.Linear(5, 16), nn.Linear(16, 12), nn.Linear(12, 4)
        self.exit = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))
        self.sure = sure

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x).relu()
        found: Tensor = self.exit(h)
        if self.sure(found):
            return found
        out: Tensor = self.leave(self.between(h).relu())
        return out


@pytest.mark.parametrize(
    "sure",
    [
        lambda y: y.softmax(-1).max() > 2,
        lambda y: y.softmax(-1).max().item() > 2,
        lambda y: float(y.softmax(-1).amax()) > 2,
        lambda y: (y.softmax(-1) > 2).any(),
        lambda y: -(y.softmax(-1) * y.log_softmax(-1)).sum(-1).mean() < 0,
    ],
)
def test_the_classes_of_an_early_exit_stay(sure: Callable[[Tensor], object]) -> None:
    model = Exit(sure).eval()
    graph = graphprune.trace(model, X)
    plan = graph.plan(0.5)
    slim = plan.apply(model)
    assert (slim.enter.out_features, slim.exit[0].out_features, slim.exit[2].out_features) == (8, 4, 4)
    assert DECIDES in str(graph.why_frozen("exit.2"))
    assert graphprune.verify(model, slim, plan, X).passed


class Guarded(nn.Module):
    """Looks at channels that other layers read: they may go."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(5, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x).relu()
        if (h * h).mean() > 1e6:
            h = h / h.norm()
        out: Tensor = self.leave(h)
        return out


class Packed(nn.Module):
    """The program reads lengths of packed sequences, and what it computes of them is written to padded ones."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.layer, self.leave = nn.Linear(5, 16), nn.GRU(16, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.enter(x).relu(), lengths)
        out: Tensor = self.leave(pad_packed_sequence(self.layer(packed)[0])[0])
        return out


def test_the_layer_before_packed_sequences_may_lose_channels() -> None:
    model, inputs = Packed().eval(), (torch.randn(6, 2, 5), torch.tensor([6, 4]))
    plan = graphprune.trace(model, inputs).plan(0.5)
    slim = plan.apply(model)
    assert slim.enter.out_features == 8
    assert graphprune.verify(model, slim, plan, inputs).passed


def test_channels_that_other_layers_read_may_go_though_the_program_looks_at_them() -> None:
    model = Guarded().eval()
    plan = graphprune.trace(model, X).plan(0.5)
    assert plan.apply(model).enter.out_features == 8
