"""Models that look at values: their slim models do on real runs what the masked original does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune
from graphprune.errors import PlanError
from graphprune.planning.masked_comparison import MaskedComparison


class Net(nn.Module):
    """Two convolutions with a program of the test's between them and at the end. [n, 3, 6, 6] -> [n, 10]"""

    def __init__(
        self, between: Callable[[Tensor], Tensor] | None = None, end: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.enter, self.middle = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.leave = nn.Linear(8, 10)
        self.between, self.end = between, end

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.enter(x))
        y = self.between(y) if self.between else y
        y = self.leave(F.relu(self.middle(y)).mean((2, 3)))
        return self.end(y) if self.end else y


class NumpyTanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.from_numpy(np.tanh(x.detach().numpy()))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


def softmax_over_channels(y: Tensor) -> Tensor:
    powers = np.exp(y.detach().numpy())
    return torch.from_numpy(powers / powers.sum(1, keepdims=True))


BETWEEN: dict[str, Callable[[Tensor], Tensor]] = {
    "numpy": lambda y: torch.from_numpy(np.tanh(y.detach().numpy())),
    "numpy in its own precision": lambda y: torch.from_numpy(np.tanh(y.detach().numpy()).astype(np.float32)),
    "a function of autograd": lambda y: NumpyTanh.apply(y),  # type: ignore[no-any-return]
    "lists": lambda y: torch.tensor(y.tolist()),
    "softmax": softmax_over_channels,
    "reversed": lambda y: torch.from_numpy(np.ascontiguousarray(y.detach().numpy()[:, ::-1])),
}


def removed(plan: graphprune.Plan) -> dict[str, int]:
    return {choice.group: len(choice.removed) for choice in plan.choices}


@pytest.mark.parametrize("name", BETWEEN)
def test_what_leaves_torch_and_comes_back_stays(name: str) -> None:
    model, x = Net(BETWEEN[name]).eval(), torch.randn(2, 3, 6, 6)
    graph = graphprune.trace(model, x)
    plan = graph.plan(0.5)
    assert removed(plan) == {"middle": 4}
    assert "read as numbers" in next(frozen.reason for frozen in graph.frozen if frozen.axis == "enter.weight[0]")
    check = graphprune.verify(model, plan.apply(model), plan, x)
    assert check.passed, check


def test_class_scores_stay() -> None:
    model, x = Net(end=softmax_over_channels).eval(), torch.randn(2, 3, 6, 6)
    plan = graphprune.trace(model, x).plan(0.5)
    assert removed(plan) == {"enter": 4, "middle": 4}
    assert plan.apply(model)(x).shape == (2, 10)


def by_its_width(y: Tensor) -> Tensor:
    """A size on the right of a float becomes a number unnoticed."""
    return y * (1.0 / y.shape[1]) if bool((y >= 0).any()) else y


def test_a_size_that_became_a_number_stays() -> None:
    model, x = Net(by_its_width).eval(), torch.randn(2, 3, 6, 6)
    plan = graphprune.trace(model, x).plan(0.5)
    assert removed(plan) == {"enter": 0, "middle": 4}
    assert "the outputs differ" in next(c.why for c in plan.choices if c.group == "enter")
    assert graphprune.verify(model, plan.apply(model), plan, x).passed


def test_without_the_check_it_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MaskedComparison, "difference", lambda *choice: None)
    model, x = Net(by_its_width).eval(), torch.randn(2, 3, 6, 6)
    plan = graphprune.trace(model, x).plan(0.5)
    assert not graphprune.verify(model, plan.apply(model), plan, x).passed


def test_branches_on_values_are_pruned() -> None:
    """To look at values is no reason to keep anything."""
    model = Net(lambda y: y * 2 if bool((y > 0.5).any()) else y).eval()
    assert removed(graphprune.trace(model, torch.randn(2, 3, 6, 6)).plan(0.5)) == {"enter": 4, "middle": 4}


class ComplexPositions(nn.Module):
    """Rotates a slice of a layer's outputs as complex numbers, which rows of odd length do not allow; looks at values.

    Compared in float64, the slice is converted, and has memory of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.both, self.up, self.leave = nn.Linear(32, 24, bias=False), nn.Linear(16, 32, bias=False), nn.Linear(40, 5)
        self.register_buffer("turns", torch.polar(torch.ones(9, 4), torch.randn(9, 4)))

    def forward(self, x: Tensor) -> Tensor:
        x = x.clamp(max=9) if x.max() > 9 else x
        low, turned = self.both(x).split([self.up.in_features, 8], dim=-1)
        turned = torch.view_as_complex(turned.float().reshape(*turned.shape[:-1], -1, 2)) * self.turns[: x.shape[1]]
        result: Tensor = self.leave(torch.cat([self.up(low), torch.view_as_real(turned).flatten(-2)], -1))
        return result


def test_slim_models_run_in_their_own_types() -> None:
    """All was equal in float64, and the slim model failed at every call."""
    model, x = ComplexPositions().eval(), torch.randn(2, 6, 32)
    graph = graphprune.trace(model, x)
    slim = graph.plan(0.2).apply(model)
    slim(x)
    assert slim.both.out_features % 2 == 0
    assert graph.plan(0.25).apply(model)(x).shape == (2, 6, 5)


def test_verify_names_what_fails_in_other_types_alone() -> None:
    model, x = ComplexPositions().eval(), torch.randn(2, 6, 32)
    plan = graphprune.trace(model, x).plan(0.25)
    slim = plan.apply(model)
    assert graphprune.verify(model, slim, plan, x).passed
    slim.both.register_forward_hook(lambda module, args, y: y if y.dtype == torch.float64 else y[..., :-1])
    with pytest.raises(PlanError, match=r"ComplexPositions\.forward failed on the example inputs in its own types: "):
        graphprune.verify(model, slim, plan, x)


def test_what_is_verified_stays_as_it_was() -> None:
    """It is run as a copy, and not at all where it was converted: the inputs are of the types of the dense one."""

    class Counting(Net):
        def forward(self, x: Tensor) -> Tensor:
            self.leave.weight.data = self.leave.weight.data * 0.9
            return super().forward(x)

    model, x = Counting().eval(), torch.randn(2, 3, 6, 6)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    before = {name: tensor.clone() for name, tensor in slim.state_dict().items()}
    assert graphprune.verify(model, slim, plan, x).passed
    assert all(torch.equal(before[name], tensor) for name, tensor in slim.state_dict().items())
    assert graphprune.verify(model, slim.double(), plan, x).passed
