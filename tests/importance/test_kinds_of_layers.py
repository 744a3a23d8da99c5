"""Every criterion scores networks of every kind of layer, and what it keeps makes a model that runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphprune
from graphprune.importance import CRITERIA
from tests.networks import (
    Concat,
    FusedAttention,
    Grouped,
    GroupedQueryAttention,
    ImageNetwork,
    PooledTail,
    Residual,
    Shuffle,
    SqueezeExcite,
    TextNetwork,
    TokenTail,
    TransformerBlock,
    randomize,
)


def _images(*blocks: nn.Module, tail: nn.Module | None = None) -> nn.Module:
    return ImageNetwork(8, blocks, tail or PooledTail(8, 6))


class Recurrent(nn.Module):
    """Words, two directions, and a decoder that takes steps of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.both, self.cell = nn.LSTM(8, 6, bidirectional=True, batch_first=True), nn.GRUCell(12, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x, state = self.both(self.embed(ids))[0], torch.zeros(ids.shape[0], 8)
        for step in range(ids.shape[1]):
            state = self.cell(x[:, step], state)
        found: Tensor = self.head(state)
        return found


class Upward(nn.Module):
    """Transposed convolutions, one of them in groups, and a factor for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.ConvTranspose2d(3, 8, 2, stride=2), nn.ConvTranspose2d(8, 8, 3, groups=8)
        self.factor, self.last = nn.Parameter(torch.randn(1, 8, 1, 1)), nn.ConvTranspose2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(F.relu(self.second(F.relu(self.first(x)))) * self.factor)
        return found


IMAGES, IDS = torch.randn(6, 3, 6, 6), torch.randint(11, (6, 4))
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "depthwise": (lambda: _images(Grouped(8, 12, 1, 1), Grouped(8, 4, 1, 2)), IMAGES),
    "grouped": (lambda: _images(Grouped(8, 4, 4, 1), Shuffle(8)), IMAGES),
    "residual": (lambda: _images(Residual(8, 6, True), SqueezeExcite(8, 4), Residual(8, 6, False)), IMAGES),
    "concatenated": (lambda: _images(Concat(8, 4, False), tail=PooledTail(12, 6)), IMAGES),
    "tokens": (
        lambda: _images(tail=TokenTail(8, 36, [TransformerBlock(8, FusedAttention(8, 4), 12, False)])),
        IMAGES,
    ),
    "words": (lambda: TextNetwork(8, [TransformerBlock(8, GroupedQueryAttention(8, 2, 2, 4), 12, True)], True), IDS),
    "recurrent": (Recurrent, IDS),
    "transposed": (Upward, IMAGES),
}


@pytest.mark.parametrize("criterion", [*sorted(CRITERIA.keys() - {"reap", "bn_scale"}), "auto"])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_criterion_scores_every_kind_of_layer(network: str, criterion: str) -> None:
    make, given = NETWORKS[network]
    torch.manual_seed(0)
    model = randomize(make()).eval()
    plan = graphprune.trace(model, given).plan(0.5, importance=criterion, calibration=[given[:4], given[4:]])
    slim = plan.apply(model)
    assert sum(p.numel() for p in slim.parameters()) < 0.8 * sum(p.numel() for p in model.parameters())
    assert slim(given).isfinite().all()


def test_gradients_of_sparse_embeddings_are_those_of_dense_ones() -> None:
    kept = []
    for sparse in (False, True):
        torch.manual_seed(0)
        table = nn.Embedding(20, 8, sparse=sparse)
        model = nn.Sequential(table, nn.Flatten(), nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 3))
        batches = [(torch.randint(0, 3, (4, 6)), torch.randint(0, 3, (4,))) for _ in range(2)]
        graph = graphprune.trace(model, batches[0][0])
        plan = graph.plan(0.5, importance="fisher", calibration=batches, loss_fn=F.cross_entropy)
        kept.append(plan.apply(model)[0].weight)
    torch.testing.assert_close(kept[1], kept[0])
