"""Literals that equal a size by accident, in the dense model, in the slim one, or in the one that is pruned again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune


class Net(nn.Module):
    """Convolutions of as many channels as rows and columns, or twice, or half as many, with a function behind them."""

    def __init__(self, width: int, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 1)
        self.c, self.between = nn.LazyConv2d(5, 1), between

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.between(self.b(self.a(x).tanh()).sin()))


def _scaled(pieces: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([piece * (i + 1) for i, piece in enumerate(pieces)], 1)


WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "shuffle": lambda x: F.channel_shuffle(x, 4),
    "native shuffle": lambda x: torch.native_channel_shuffle(x, 4),
    "module": lambda x: nn.ChannelShuffle(4)(x) * 2,
    "pixels": lambda x: F.pixel_shuffle(x, 2),
    "unshuffled pixels": lambda x: F.pixel_unshuffle(x, 4),
    "chunks": lambda x: _scaled(x.chunk(4, 1)),
    "parts of four": lambda x: _scaled(x.split(4, 1)),
    "four parts": lambda x: _scaled(x.tensor_split(4, 1)),
    "unflattened": lambda x: x.unflatten(1, (4, -1)).sin().flatten(1, 2),
    "unflattened, last": lambda x: x.unflatten(1, (-1, 4)).sin().sum(1),
    "viewed": lambda x: x.view(len(x), 4, -1, *x.shape[2:]).sum(1),
    "viewed, last": lambda x: x.reshape(len(x), -1, 4, *x.shape[2:]).amax(2),
    "space": lambda x: x.flatten(2).view(len(x), -1, 8, 8),
    "repeated": lambda x: x.repeat(1, 4, 1, 1),
    "interleaved": lambda x: x.repeat_interleave(4, 1),
    "mean repeated": lambda x: x * x.mean(1, True).repeat(1, 8, 1, 1)[:, :1],
    "mean expanded": lambda x: x.mean(1, True).expand(len(x), 8, 8, 8),
    "largest": lambda x: x.topk(4, 1)[0],
    "narrow": lambda x: x.narrow(1, 0, 4),
    "first": lambda x: x[:, :4],
    "last": lambda x: x[:, -4:],
    "columns numbered": lambda x: x * torch.arange(8.0),
    "square added": lambda x: x + torch.ones(8, 8),
    "zeros beside": lambda x: torch.cat([x, torch.zeros(2, 8, 8, 8)], 1),
    "padded": lambda x: F.pad(x, (0, 0, 0, 0, 4, 4)),
    "groups": lambda x: F.group_norm(x, 4),
    "last dimension normed": lambda x: F.layer_norm(x, (8,)),
    "pooled": lambda x: F.adaptive_avg_pool2d(x, 8),
    "every fourth": lambda x: x[:, ::4],
    "a number": lambda x: x / 4 + x * 8,
    "transposed": lambda x: x.transpose(2, 3) + x,
}


@pytest.mark.filterwarnings("ignore::graphprune.NothingRemovedWarning")
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("width", [4, 8, 16])
def test_a_literal_is_no_width_that_it_equals(way: Callable[[Tensor], Tensor], width: int) -> None:
    torch.manual_seed(0)
    net, x = Net(width, way).eval(), torch.randn(2, 3, 8, 8)
    net(x)
    for _ in range(3):
        plan = graphprune.trace(net, x).plan(0.5, importance="random")
        slim = plan.apply(net)
        assert graphprune.verify(net, slim, plan, x).passed
        if slim.a.out_channels == 1:
            break
        net = slim
