"""Calls that were run once on shapes are not run again."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import graphprune
from graphprune.tracing.meta import MetaExecution, _writes_entries

aten = torch.ops.aten


def empty(*shape: int) -> torch.Tensor:
    return torch.empty(shape, device="meta")


@pytest.mark.parametrize("op", [aten.hardswish_.default, aten.zero_.default, aten.copy_.default])
def test_what_writes_to_entries_leaves_the_shape(op: object) -> None:
    assert _writes_entries(op)


@pytest.mark.parametrize(
    "op", [aten.t_.default, aten.resize_.default, aten.set_.source_Tensor, aten.normal_.default, aten.add.Tensor]
)
def test_what_moves_or_draws_or_makes_something_does_not(op: object) -> None:
    assert not _writes_entries(op)


def test_a_call_in_place_returns_its_first_argument_each_time() -> None:
    execution = MetaExecution()
    for _ in range(3):
        x = empty(2, 3)
        assert execution.run(aten.masked_fill_.Scalar, (x, empty(2, 3).bool(), 0.0), {}) is x


def test_a_call_in_place_that_does_not_fit_fails_each_time() -> None:
    execution = MetaExecution()
    for _ in range(2):
        with pytest.raises(RuntimeError):
            execution.run(aten.copy_.default, (empty(2, 3), empty(4, 3)), {})


def test_activations_in_place_are_pruned_as_others_are() -> None:
    def widths(inplace: bool) -> list[torch.Size]:
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 8, 3), nn.Hardswish(inplace), nn.Conv2d(8, 8, 3), nn.Mish(inplace), nn.Conv2d(8, 4, 3)
        slim = graphprune.prune_model(nn.Sequential(*layers).eval(), 0.5, torch.randn(1, 3, 9, 9))
        return [p.shape for p in slim.parameters()]

    assert widths(inplace=True) == widths(inplace=False)
