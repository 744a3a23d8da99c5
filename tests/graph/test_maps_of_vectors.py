"""A vector that is viewed as maps over space, as in generators and decoders, loses whole maps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphprune

CHANNELS = 12

VIEWS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "view": lambda y, c: y.view(-1, c, 4, 4),
    "view by length": lambda y, c: y.view(len(y), -1, 4, 4),
    "reshape": lambda y, c: y.reshape(y.shape[0], y.shape[1] // 16, 4, 4),
    "unflatten": lambda y, c: y.unflatten(1, (c, 4, 4)),
    "channels last": lambda y, c: y.view(-1, 4, 4, c).permute(0, 3, 1, 2),
}


class Concatenated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.more, self.join = nn.Conv2d(CHANNELS, 4, 3, padding=1), nn.Conv2d(CHANNELS + 4, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(torch.cat([x, self.more(x)], 1))


class Excited(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale, self.join = nn.Linear(CHANNELS, CHANNELS), nn.Conv2d(CHANNELS, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(x * self.scale(x.mean((2, 3))).sigmoid()[..., None, None])


def conv() -> nn.Module:
    return nn.Conv2d(CHANNELS, 6, 3, padding=1)


AFTER: dict[str, Callable[[], nn.Module]] = {
    "convolution": conv,
    "transposed": lambda: nn.ConvTranspose2d(CHANNELS, 6, 4, 2, 1),
    "upsampled": lambda: nn.Sequential(nn.Upsample(scale_factor=2), conv()),
    "padded": lambda: nn.Sequential(nn.ZeroPad2d(1), conv()),
    "pooled": lambda: nn.Sequential(nn.MaxPool2d(2), conv()),
    "depthwise": lambda: nn.Sequential(nn.Conv2d(CHANNELS, CHANNELS, 3, groups=CHANNELS), conv()),
    "group norm": lambda: nn.Sequential(nn.GroupNorm(2, CHANNELS), nn.SiLU(), conv()),
    "instance norm": lambda: nn.Sequential(nn.InstanceNorm2d(CHANNELS), conv()),
    "batch norm": lambda: nn.Sequential(nn.BatchNorm2d(CHANNELS), nn.ReLU(), conv()),
    "pixel shuffle": lambda: nn.Sequential(nn.PixelShuffle(2), nn.Conv2d(CHANNELS // 4, 6, 1)),
    "concatenated": Concatenated,
    "excited": Excited,
}


class Decoder(nn.Module):
    """A code to maps of [channels, 4, 4], and on to an image."""

    def __init__(self, view: Callable[[Tensor, int], Tensor], after: nn.Module) -> None:
        super().__init__()
        self.enter, self.after, self.leave = nn.Linear(5, CHANNELS * 16), after, nn.Conv2d(6, 2, 1)
        self.view, self.channels = view, CHANNELS

    def forward(self, z: Tensor) -> Tensor:
        return self.leave(self.after(self.view(self.enter(z), self.channels)).relu())


def halved(net: nn.Module) -> nn.Module:
    """Half of the channels of a decoder, verified."""
    z = torch.randn(3, 5)
    plan = graphprune.trace(net.eval(), z).plan(0.5, importance="random")
    slim = plan.apply(net)
    assert graphprune.verify(net, slim, plan, z).passed
    return slim


@pytest.mark.parametrize("after", AFTER)
def test_maps_go_before_whatever_acts_on_space(after: str) -> None:
    torch.manual_seed(0)
    assert halved(Decoder(VIEWS["view"], AFTER[after]())).enter.out_features < CHANNELS * 16


@pytest.mark.parametrize("after", ["padded", "batch norm", "excited"])
def test_maps_go_where_channels_come_last(after: str) -> None:
    torch.manual_seed(0)
    assert halved(Decoder(VIEWS["channels last"], AFTER[after]())).enter.out_features < CHANNELS * 16


@pytest.mark.parametrize("view", VIEWS)
def test_half_of_the_maps_go_however_they_are_made(view: str) -> None:
    torch.manual_seed(0)
    assert halved(Decoder(VIEWS[view], conv())).enter.out_features == CHANNELS * 16 // 2


def test_maps_are_channels_rather_than_heads() -> None:
    net = Decoder(VIEWS["view"], AFTER["batch norm"]())
    groups = graphprune.trace(net, torch.randn(3, 5)).groups
    assert [(group.role, group.units) for group in groups] == [("mlp", CHANNELS), ("mlp", 6)]


def test_an_unflatten_layer_follows() -> None:
    net = nn.Sequential(nn.Linear(5, CHANNELS * 16), nn.Unflatten(1, (CHANNELS, 4, 4)), conv(), nn.Conv2d(6, 2, 1))
    assert halved(net)[1].unflattened_size == (CHANNELS // 2, 4, 4)


def test_maps_that_are_counted_by_a_literal_stay() -> None:
    net = Decoder(lambda y, _: y.view(-1, 12, 4, 4), conv())
    frozen = graphprune.trace(net, torch.randn(3, 5)).frozen
    assert any(f.axis == "enter.weight[0]" and "the size 12 is a literal" in f.reason for f in frozen)
    assert halved(net).enter.out_features == CHANNELS * 16
