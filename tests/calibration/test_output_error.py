"""How far the outputs of two models are from each other."""

from __future__ import annotations

import math

import pytest
import torch

from graphprune.calibration.output_error import relative_error


def test_what_has_another_shape_does_not_count() -> None:
    wanted = [torch.tensor([[1.0, 3.0]]), torch.ones(1, 4)]
    found = [torch.tensor([[1.0, 4.0]]), torch.ones(1, 1)]
    assert relative_error([found], [wanted]) == pytest.approx(1 / 2)


def test_where_nothing_can_be_compared_the_error_is_infinite() -> None:
    assert relative_error([[]], [[]]) == math.inf
    assert relative_error([[torch.ones(1)]], [[torch.ones(2)]]) == math.inf
