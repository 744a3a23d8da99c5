"""Magnitudes of complex weights are moduli."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphprune
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
