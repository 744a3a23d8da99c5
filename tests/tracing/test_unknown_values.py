"""Integers and truth values that are worked out from floats have none while a model is traced on shapes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import graphprune

Chosen = Callable[[Tensor], Tensor]
SAMPLES, EXPERTS = 16, 4


def scattered(scores: Tensor) -> Tensor:
    return torch.zeros(SAMPLES, EXPERTS, dtype=torch.bool).scatter_(1, scores.topk(2).indices, True)


def counted(scores: Tensor) -> Tensor:
    chosen = scores.topk(2).indices
    return torch.zeros(SAMPLES, EXPERTS, dtype=torch.long).scatter_add_(1, chosen, torch.ones_like(chosen))


def assigned(scores: Tensor) -> Tensor:
    chosen = torch.zeros(SAMPLES, EXPERTS, dtype=torch.bool)
    chosen[torch.arange(SAMPLES)[:, None], scores.topk(2).indices] = True
    return chosen


def copied(scores: Tensor) -> Tensor:
    chosen = torch.zeros(SAMPLES, EXPERTS, dtype=torch.bool)
    chosen.copy_(scores > 0.25)
    return chosen


def copied_to_a_part(scores: Tensor) -> Tensor:
    chosen = torch.zeros(SAMPLES, EXPERTS, dtype=torch.bool)
    chosen[1:] = scores[1:] > 0.25
    return chosen


def into_another(scores: Tensor) -> Tensor:
    chosen = torch.zeros(SAMPLES, EXPERTS, dtype=torch.bool)
    torch.gt(scores, 0.25, out=chosen)
    return chosen


class Experts(nn.Module):
    """Experts that run on the samples which are given to them, if there are any."""

    def __init__(self, choose: Chosen, read: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.choose, self.read = choose, read
        self.first, self.gate, self.last = nn.Linear(8, 16), nn.Linear(16, EXPERTS), nn.Linear(16, 3)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), nn.ReLU()) for _ in range(EXPERTS))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        chosen = self.choose(self.gate(x).softmax(-1))
        total = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows = self.read(chosen[:, number])
            if len(rows):
                total = total.index_add(0, rows, expert(x[rows]))
        return self.last(total)


def by_nonzero(chosen: Tensor) -> Tensor:
    return chosen.nonzero().squeeze(1)


def by_numbers(chosen: Tensor) -> Tensor:
    return torch.tensor([row for row, given in enumerate(chosen.tolist()) if given])


@pytest.mark.parametrize("read", [by_nonzero, by_numbers])
@pytest.mark.parametrize("choose", [scattered, counted, assigned, copied, copied_to_a_part, into_another])
def test_what_a_program_writes_from_floats_decides_on_the_way(choose: Chosen, read: Callable[[Tensor], Tensor]) -> None:
    """The trace went by the zeros that were there before, ran no expert, and the slim model failed."""
    torch.manual_seed(0)
    model, x = Experts(choose, read).eval(), torch.randn(SAMPLES, 8)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert slim.first.out_features == 8
    assert all(expert[0].out_features == 8 for expert in slim.experts)  # type: ignore[index]
    assert graphprune.verify(model, slim, plan, x).passed


class Masked(nn.Module):
    """Writes truth values that decide on nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        keep = torch.zeros(y.shape, dtype=torch.bool, device=y.device)
        keep.copy_(y > 0)
        return self.last(torch.where(keep, y, 0.0))


def test_what_is_not_read_needs_no_values() -> None:
    with torch.device("meta"):
        model = Masked().eval()
    graph = graphprune.trace(model, torch.randn(4, 8))
    assert graph.trace.on_meta
    assert graph.plan(0.5, importance="random").apply(model).first.out_features == 8
