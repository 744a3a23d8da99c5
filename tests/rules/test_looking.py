"""Operations that only look at tensors hold nothing: comparisons, forward-mode differentiation, shallow copies."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn

import graphprune


class Net(nn.Module):
    """A hidden layer, with a program of the test's on what it gives."""

    def __init__(self, then: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(8, 16), nn.Linear(16, 4)
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        return self.then(self, x, self.enter(x).relu())


def dual(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with forward_ad.dual_level():
        out = forward_ad.make_dual(y, torch.ones_like(y)).sin()
        return net.leave(forward_ad.unpack_dual(out).tangent)


PROGRAMS: dict[str, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {
    "jvp of a function": lambda net, x, y: net.leave(torch.func.jvp(torch.tanh, (y,), (torch.ones_like(y),))[1]),
    "jvp of a layer": lambda net, x, y: torch.func.jvp(net.leave, (y,), (torch.ones_like(y),))[1],
    "jvp of all": lambda net, x, y: torch.func.jvp(lambda x: net.leave(net.enter(x).tanh()), (x,), (x.cos(),))[1],
    "dual numbers": dual,
    "allclose": lambda net, x, y: net.leave(y if torch.allclose(y, y) else -y),
    "is_pinned": lambda net, x, y: net.leave(-y if y.is_pinned() else y),
    "is_set_to": lambda net, x, y: net.leave(y if y.is_set_to(y) else -y),
    "copy": lambda net, x, y: net.leave(copy.copy(y).tanh()),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # torch compiles its own formulas
@pytest.mark.parametrize("name", PROGRAMS)
def test_nothing_is_held(name: str) -> None:
    torch.manual_seed(0)
    model, x = Net(PROGRAMS[name]).eval(), torch.randn(2, 8)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert slim.enter.out_features == 8
    check = graphprune.verify(model, slim, plan, torch.randn(2, 8))
    assert check.passed, check


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
def test_repair_takes_zeros_that_are_in_no_memory() -> None:
    torch.manual_seed(0)
    model, x = Net(PROGRAMS["jvp of all"]).eval(), torch.randn(12, 8)
    assert graphprune.prune_model(model, 0.5, x, calibration=[x]).enter.out_features == 8


class Curvature(nn.Module):
    """Second derivatives by each sample, whose gradients are broadcast over the directions."""

    def __init__(self) -> None:
        super().__init__()
        layers = nn.Linear(4, 20), nn.Softplus(), nn.Linear(20, 20), nn.Softplus(), nn.Linear(20, 1)
        self.net = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = torch.func.vmap(torch.func.hessian(lambda one: self.net(one).squeeze()))(x)
        return found


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
def test_second_derivatives_of_many_samples_lose_channels_of_every_layer() -> None:
    torch.manual_seed(0)
    model, x = Curvature().eval(), torch.randn(3, 4)
    plan = graphprune.trace(model, x).plan(0.5)
    assert [choice.kept for choice in plan.choices] == [10, 10]
    assert graphprune.verify(model, plan.apply(model), plan, x).passed


def test_a_copy_of_a_parameter_is_one() -> None:
    """Copies of what is more than a tensor are made as ever."""

    def then(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        assert type(copy.copy(net.leave.bias)) is nn.Parameter
        return net.leave(y)

    assert graphprune.trace(Net(then).eval(), torch.randn(2, 8)).plan(0.5).entries[1] < 212
    assert "__copy__" not in vars(Tensor)
