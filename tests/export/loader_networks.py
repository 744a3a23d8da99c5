"""Networks that a process without graphprune can import."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


def attention() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


class Recurrent(nn.Module):
    """A recurrent layer keeps its weights twice; this one has a table in a list too."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.width = width
        self.rnn = nn.LSTM(width, 12, batch_first=True)
        self.first, self.last = nn.Linear(4, width), nn.Linear(12, 3)
        self.steps = [torch.linspace(0.5, 1, 3)]
        self.limits = {"low": float("-inf")}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.rnn(self.first(x).relu())[0]) * self.steps[0]
        return out


class Holding(nn.Module):
    """A function has a tensor of its own, and another one the weight of a layer."""

    def __init__(self, holds_weight: bool = False) -> None:
        super().__init__()
        self.holds_weight = holds_weight
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 3)
        factor, layer = torch.full((), 2.0), self.first
        self.scale = lambda x: x * factor
        self.penalty = (lambda x, w=layer.weight: x + w.sum()) if holds_weight else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.last(self.scale(self.first(x)))
        return self.penalty(out) if self.penalty else out


@dataclass
class Sizes:
    width: int = 16


class Shared(nn.Module):
    """All instances have one object with their sizes."""

    def __init__(self, sizes: Sizes = Sizes()) -> None:  # noqa: B008
        super().__init__()
        self.sizes = sizes
        self.enter, self.leave = nn.Linear(4, sizes.width), nn.Linear(sizes.width, 2)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.leave(self.enter(x).relu())
        return found
