"""Magnitudes of complex weights are moduli."""

from __future__ import annotations

import numpy as np
import torch

from graphprune.importance.parameter_entries import entry_norms


def test_norms_of_complex_entries_are_of_moduli() -> None:
    w = torch.randn(3, 4, dtype=torch.complex128)
    for order in (1.0, 2.0):
        for dim, found in enumerate(entry_norms(w, [0, 1], order)):
            assert np.allclose(found, w.abs().pow(order).sum(1 - dim).numpy())


def test_norms_of_a_complex_vector() -> None:
    (found,) = entry_norms(torch.tensor([3 + 4j, 1j]), [0], 2.0)
    assert np.allclose(found, [25.0, 1.0])
