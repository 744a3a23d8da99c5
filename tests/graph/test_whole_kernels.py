"""Kernels as wide as their input, as those over word vectors: they do not slide there, and it is contracted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import graphprune


class Text(nn.Module):
    """Convolutions over words, each kernel as wide as a vector (Kim, "Convolutional Neural Networks for Sentence
    Classification", EMNLP 2014)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.convs = nn.ModuleList(nn.Conv2d(1, 24, (words, 32)) for words in (2, 3))
        self.leave = nn.Linear(48, 2)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)[:, None]
        found: Tensor = self.leave(torch.cat([conv(x).relu().squeeze(3).amax(2) for conv in self.convs], 1))
        return found


class Tokens(nn.Module):
    """Tokens are the channels of a convolution, and their vectors its length."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.conv, self.leave = nn.Embedding(50, 16), nn.Conv1d(6, 20, 16), nn.Linear(20, 3)

    def forward(self, ids: Tensor) -> Tensor:
        found: Tensor = self.leave(self.conv(self.embed(ids)).squeeze(-1).relu())
        return found


class Bands(nn.Module):
    """Projected bands are read whole, and steps are slid over, by kernels for groups of maps."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(20, 16)
        self.maps, self.conv = nn.Conv2d(1, 8, 1), nn.Conv2d(8, 16, (3, 16), padding=(1, 0), groups=2)
        self.leave = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(self.maps(self.embed(x)[:, None]).relu()).squeeze(-1).relu()
        found: Tensor = self.leave(y.mean(-1))
        return found


NETWORKS = {
    "words": (Text, (torch.randint(50, (2, 9)), torch.randint(50, (3, 14)))),
    "tokens": (Tokens, (torch.randint(50, (2, 6)), torch.randint(50, (3, 6)))),
    "bands": (Bands, (torch.randn(2, 7, 20), torch.randn(3, 9, 20))),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_vectors_that_kernels_read_whole_are_narrowed(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, (x, other) = NETWORKS[name]
    dense = make().eval()
    plan = graphprune.trace(dense, x).plan(0.5)
    slim = plan.apply(dense)
    assert 2 * slim.embed.weight.numel() == dense.embed.weight.numel()
    for conv in (module for module in slim.modules() if isinstance(module, nn.modules.conv._ConvNd)):
        assert conv.kernel_size == conv.weight.shape[2:]
    for inputs in (x, other):
        report = graphprune.verify(dense, slim, plan, inputs)
        assert report.passed and not report.inexact
    slim(other).sum().backward()
    graphprune.save(slim, tmp_path / "slim")
    assert torch.equal(graphprune.load(tmp_path / "slim", model=dense)(x), slim(x))


def test_padding_makes_a_kernel_slide() -> None:
    layers = nn.Linear(20, 16), nn.Unflatten(0, (-1, 1)), nn.Conv1d(1, 4, 16, padding=1), nn.Conv1d(4, 2, 1)
    net = nn.Sequential(*layers).eval()
    slim = graphprune.trace(net, torch.randn(2, 20)).plan(0.5).apply(net)
    assert slim[0].out_features == 16 and slim[2].out_channels == 2


def test_repair_fits_kernels_over_words() -> None:
    torch.manual_seed(0)
    dense, ids = Text().eval(), torch.randint(50, (64, 9))
    plain = graphprune.trace(dense, ids).plan(0.5).apply(dense)
    repaired = graphprune.prune_model(dense, 0.5, ids, calibration=[ids], importance="l2")
    wanted = dense(ids)
    assert (repaired(ids) - wanted).norm() < 0.5 * (plain(ids) - wanted).norm()
