"""Magnitudes of complex weights are moduli."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune.calibration.statistics import Statistics
from graphprune.errors import InputError
from graphprune.graph.blocks import Block
from graphprune.importance.block_influence import influence
from graphprune.importance.context import Context
from graphprune.importance.criteria import CRITERIA
from graphprune.importance.parameter_entries import entry_norms


def test_norms_of_complex_entries_are_of_moduli() -> None:
    w = torch.randn(3, 4, dtype=torch.complex128)
    for order in (1.0, 2.0):
        for dim, found in enumerate(entry_norms(w, [0, 1], order)):
            assert np.allclose(found, w.abs().pow(order).sum(1 - dim).numpy())


def test_norms_of_a_complex_vector() -> None:
    (found,) = entry_norms(torch.tensor([3 + 4j, 1j]), [0], 2.0)
    assert np.allclose(found, [25.0, 1.0])


def largest_reads(group: graphprune.Group, context: Any) -> Tensor:
    rows: Tensor = context.rows(group, next(a for a in group.axes if a.parameter == "1.weight"))
    return rows.abs().amax(1)


@pytest.mark.parametrize("importance", ["l1", "l2", "wanda", "flap", "obs", "schur", "auto", largest_reads])
def test_what_counts_of_a_weight_is_its_modulus(importance: Any) -> None:
    torch.manual_seed(0)
    layers = (nn.Linear(n, m, bias=False, dtype=torch.complex64) for n, m in ((8, 16), (16, 3)))
    model, x = nn.Sequential(*layers), torch.randn(64, 8, dtype=torch.complex64)
    with torch.no_grad():
        model[1].weight[:, :8] = 100j * torch.randn(3, 8)
        model[1].weight[:, 8:] = 0.01 * torch.randn(3, 8)
    plan = graphprune.trace(model, x).plan(0.5, importance=importance, calibration=[x])
    assert plan.removed["0"][1] == tuple(range(8, 16))


class Filter(nn.Module):
    """A filter of frequencies, whose gains are complex, or pairs of real and imaginary parts."""

    def __init__(self, gains: Tensor) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(3, 8), nn.Linear(8, 2)
        self.gains = nn.Parameter(gains)

    def forward(self, x: Tensor) -> Tensor:
        gains = self.gains if self.gains.is_complex() else torch.view_as_complex(self.gains)
        return self.leave(torch.fft.irfft(torch.fft.rfft(self.enter(x).mT)[..., :4] * gains, n=8).mT)


def twins(seed: int) -> tuple[Filter, Filter]:
    """A filter with complex gains, and the same function with real parameters alone."""
    torch.manual_seed(seed)
    own = Filter(torch.randn(8, 4, dtype=torch.complex64))
    other = Filter(torch.view_as_real(own.gains.detach()).clone())
    other.enter, other.leave = own.enter, own.leave
    return own, other


def scores_of(model: nn.Module, importance: str, batch: tuple[Tensor, Tensor]) -> Tensor:
    graph = graphprune.trace(model, batch[0][:1])
    statistics = Statistics(model, graph.units, [batch], nn.functional.mse_loss)
    context = Context(model, dict(model.named_parameters()), graph.units, 0, statistics)
    return CRITERIA[importance].score(graph.groups[0], context)


@pytest.mark.parametrize("importance", ["taylor", "fisher", "kfac", "surgeon"])
def test_gradients_of_complex_weights_count_by_parts(importance: str) -> None:
    own, other = twins(0)
    batch = torch.randn(16, 8, 3), torch.randn(16, 8, 2)
    torch.testing.assert_close(scores_of(own, importance, batch), scores_of(other, importance, batch))


def test_scores_of_entries_are_real() -> None:
    graph = graphprune.trace(twins(0)[0], torch.randn(1, 8, 3))
    with pytest.raises(InputError, match=r"entry_scores: for gains[\s\S]*one real score"):
        graph.plan(0.5, importance=lambda _, context: context.saliency(graph.groups[0], lambda _, w: w * w))


def test_blocks_without_data_count_by_moduli() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False, dtype=torch.complex64))
    with torch.no_grad():
        model[0].weight.copy_(2j * torch.eye(4))
    block = Block("0", *[next(iter(graphprune.trace(model, torch.ones(1, 4) + 0j).trace.graph.nodes))] * 2, frozenset())
    assert influence(model, [block], None) == [1.0]
