"""A network that trains in a blink, and its data: what the tests of training share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import graphprune


class Net(nn.Module):
    """Normalization and dropout: buffers, and random numbers in every step. [n, 6] -> [n, 3]."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.enter = nn.Linear(6, width)
        self.norm = nn.BatchNorm1d(width)
        self.drop = nn.Dropout(0.2)
        self.leave = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.drop(self.norm(self.enter(x)).relu()))


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def slim_net(seed: int = 0) -> nn.Module:
    """A ``net`` of half the width."""
    return graphprune.prune_model(net(seed), 0.5, torch.zeros(2, 6))


def examples(count: int = 64) -> tuple[Tensor, Tensor]:
    """Points and which of three directions they are nearest to."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 6, generator=generator)
    return x, (x @ torch.randn(6, 3, generator=generator)).argmax(1)


def loader(batch_size: int = 8, shuffle: bool = True, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*examples()), batch_size, shuffle, **options)


def accuracy(model: nn.Module) -> float:
    x, y = examples()
    return float((model(x).argmax(1) == y).float().mean())


def weights(model: nn.Module) -> list[Tensor]:
    """All parameters and buffers, as they are now."""
    return [tensor.detach().clone() for tensor in model.state_dict().values()]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    """Bit for bit?"""
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
