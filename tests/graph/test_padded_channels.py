"""Shortcuts to which zero channels are added by ``F.pad``, as of ResNets without projections and of pyramidal ones."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune

WAYS = ("behind", "around", "by shapes", "concatenated")


class Wider(nn.Module):
    """A convolution to more channels, with zeros beside those of its input added to it."""

    def __init__(self, channels: int, out: int, way: str) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, out, 3, 1, 1), nn.BatchNorm2d(out)
        self.more, self.way = out - channels, way

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return torch.relu(y + self.padded(x, y))

    def padded(self, x: Tensor, y: Tensor) -> Tensor:
        if self.way == "behind":
            return F.pad(x, (0, 0, 0, 0, 0, self.more))
        if self.way == "around":
            return F.pad(x, (0, 0, 0, 0, self.more // 2, self.more // 2))
        if self.way == "by shapes":
            return F.pad(x, (0, 0, 0, 0, 0, y.size(1) - x.size(1)))
        if self.way == "by a number":
            return F.pad(x, (0, 0, 0, 0, 0, 16))
        if self.way == "with ones":
            return F.pad(x, (0, 0, 0, 0, 0, self.more), value=1.0)
        return torch.cat([x, x.new_zeros(x.size(0), self.more, *x.shape[2:])], 1)


def _network(way: str) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 16, 1), Wider(16, 32, way), Wider(32, 48, way), nn.Conv2d(48, 5, 1))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -1, 1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2)  # type: ignore[arg-type]
    return net.eval()


@pytest.mark.parametrize("way", WAYS)
def test_zeros_that_a_size_adds_go_with_the_channels_that_they_meet(way: str) -> None:
    net, x = _network(way), torch.randn(2, 3, 8, 8)
    plan = graphprune.trace(net, x).plan(0.5)
    slim = plan.apply(net)
    report = graphprune.verify(net, slim, plan, x)
    assert [layer.conv.out_channels for layer in slim[1:3]] == [16, 24]
    assert report.passed and not report.inexact
    slim(torch.randn(3, 3, 5, 6)).sum().backward()


@pytest.mark.parametrize("way", ["by a number", "with ones"])
def test_other_padding_is_always_there(way: str) -> None:
    net, x = _network(way), torch.randn(2, 3, 8, 8)
    plan = graphprune.trace(net, x).plan(0.5)
    slim = plan.apply(net)
    assert graphprune.verify(net, slim, plan, x).passed
    assert [layer.conv.out_channels - layer.conv.in_channels for layer in slim[1:3]] == [16, 16]


def test_the_reason_says_that_a_number_pads() -> None:
    graph = graphprune.trace(_network("by a number"), torch.randn(2, 3, 8, 8))
    reasons = {entry.reason for entry in graph.frozen if entry.axis == "1.conv.weight[0]"}
    assert any("pads by a number, and not by a size" in reason for reason in reasons), reasons


class CausalBranch(nn.Module):
    """Zeros are added in front of the steps of a sequence, as many as an attribute says."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.before, self.conv = size - 1, nn.Conv1d(channels, channels, size)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.conv(F.pad(x, (self.before, 0))))


def test_steps_that_an_attribute_pads_stay() -> None:
    net = nn.Sequential(nn.Conv1d(3, 16, 1), CausalBranch(16, 3), CausalBranch(16, 5), nn.Conv1d(16, 4, 1)).eval()
    x = torch.randn(2, 3, 12)
    plan = graphprune.trace(net, x).plan(0.5)
    slim = plan.apply(net)
    assert [branch.before for branch in slim[1:3]] == [2, 4]
    assert slim[0].out_channels == 8 and graphprune.verify(net, slim, plan, x).passed
