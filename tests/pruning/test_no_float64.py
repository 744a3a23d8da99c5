"""Models are compared in float64: what has no kernel for it is named."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import graphprune

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


@torch.library.custom_op("graphprune_tests::narrow_square", mutates_args=())
def narrow_square(x: Tensor) -> Tensor:
    if x.dtype != torch.float32:
        raise RuntimeError("narrow_square_kernel not implemented for 'Double'")
    return x * x


@narrow_square.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def squared(h: Tensor) -> Tensor:
    return narrow_square(h)


def by_numpy(h: Tensor) -> Tensor:
    values = h.detach().numpy()
    if values.dtype != np.float32:
        raise TypeError("only float32 arrays")
    return h + torch.from_numpy(np.sin(values))


def looking(h: Tensor) -> Tensor:
    return narrow_square(h) if float(h.sum()) > -1e9 else h


class Narrow(nn.Module):
    """Has an operation in its midst that takes float32 alone, and two layers that can be pruned beside it."""

    def __init__(self, middle: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.middle, self.first, self.last = middle, nn.Linear(6, 8), nn.Linear(8, 4)
        self.beside = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x))) + self.beside(x)


def test_verify_names_the_operation() -> None:
    model = Narrow(squared).eval()
    plan = graphprune.trace(model, X).plan(0.5)
    slim = plan.apply(model)
    with pytest.raises(graphprune.NoFloat64Error, match="narrow_square does not run in float64") as caught:
        graphprune.verify(model, slim, plan, X)
    assert "not implemented for 'Double'" in caught.value.found
    assert "test_no_float64.py" in caught.value.place


@pytest.mark.parametrize("middle", [looking, by_numpy])
def test_planning_by_values_names_what_fails(middle: Callable[[Tensor], Tensor]) -> None:
    """It said that the program does not do the same again."""
    graph = graphprune.trace(Narrow(middle).eval(), X)
    with pytest.raises(graphprune.NoFloat64Error, match="does not run in float64"):
        graph.plan(0.5)


def test_compaction_names_it() -> None:
    """It blamed the batches."""
    model = Narrow(squared).eval()
    with torch.no_grad():
        model.beside[0].weight[:8] = 0
        model.beside[0].bias[:8] = 0
    with pytest.raises(graphprune.NoFloat64Error, match="narrow_square"):
        graphprune.compact(model, X)


def test_another_failure_is_not_put_down_to_float64() -> None:
    model = Narrow(torch.relu).eval()
    plan = graphprune.trace(model, X).plan(0.5)
    slim = plan.apply(model)
    slim.middle = by_numpy
    with pytest.raises(graphprune.PlanError, match=r"Narrow\.forward failed") as caught:
        graphprune.verify(model, slim, plan, X)
    assert not isinstance(caught.value, graphprune.NoFloat64Error)
