"""Lengths that ``pad_packed_sequence`` returns are those of the input wherever the program is run again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import (
    PackedSequence,
    pack_padded_sequence,
    pack_sequence,
    pad_packed_sequence,
    unpack_sequence,
)

import graphprune

X, LENGTHS = torch.randn(4, 2, 5), torch.tensor([4, 2])


class Net(nn.Module):
    """A recurrent layer on packed sequences, and a function of its packed outputs."""

    def __init__(self, read: Callable[[Net, PackedSequence], Tensor | tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self.layer, self.leave, self.read = nn.LSTM(5, 16), nn.Linear(16, 2), read

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return self.read(self, self.layer(pack_padded_sequence(x, lengths))[0])


def last(net: Net, packed: PackedSequence) -> Tensor:
    y, lengths = pad_packed_sequence(packed)
    found: Tensor = net.leave(y[lengths - 1, torch.arange(len(lengths))])
    return found


def shown(net: Net, packed: PackedSequence) -> Tensor:
    y, lengths = pad_packed_sequence(packed, batch_first=True)
    found: Tensor = net.leave(y[torch.arange(y.size(1)) < lengths[:, None]])
    return found


def unpacked(net: Net, packed: PackedSequence) -> Tensor:
    found: Tensor = net.leave(torch.stack([one[-1] for one in unpack_sequence(packed)]))
    return found


def mean(net: Net, packed: PackedSequence) -> Tensor:
    y, lengths = pad_packed_sequence(packed)
    found: Tensor = net.leave(y.sum(0) / lengths.unsqueeze(-1))
    return found


def returned(net: Net, packed: PackedSequence) -> tuple[Tensor, Tensor]:
    y, lengths = pad_packed_sequence(packed)
    return net.leave(y), lengths


@pytest.mark.parametrize("read", [last, shown, unpacked, mean, returned])
def test_lengths_are_those_of_the_input(read: Callable[[Net, PackedSequence], Tensor]) -> None:
    model = Net(read).eval()
    plan = graphprune.trace(model, (X, LENGTHS)).plan(0.5)
    slim = plan.apply(model)
    assert slim.layer.hidden_size == 8
    assert graphprune.verify(model, slim, plan, (X, LENGTHS)).passed


class Uneven(nn.Module):
    """Packs its own input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.leave = nn.GRU(5, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        packed = pack_sequence([x[:2, 0], x[:, 1], x[:3, 0]], enforce_sorted=False)
        y, lengths = pad_packed_sequence(self.layer(packed)[0])
        order = torch.empty(3, dtype=torch.long)
        order[:2] = torch.tensor([2, 0])
        order[2:].fill_(1)
        found: Tensor = self.leave(y[(lengths - 1)[order], order])
        return found


def test_memory_that_operations_fill_stays_what_it_was() -> None:
    model = Uneven().eval()
    trace = graphprune.trace(model, X)
    plan = trace.plan(0.5)
    assert graphprune.verify(model, plan.apply(model), plan, X).passed
    assert [node for node in trace.trace.graph.nodes if node.name == "empty_1"]
