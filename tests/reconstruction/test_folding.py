"""Folding without data: exact where channels are alike, nearer where they are not, and honest about what it leaves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import graphprune
from graphprune.errors import InputError, PlanError
from graphprune.pruning.plan import Plan
from graphprune.reconstruction.folding import fold
from models import mobilenet_v2, resnet_cifar, vit


def settled(model: nn.Module) -> nn.Module:
    """A model in evaluation mode whose norms have seen something."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (module.weight, module.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, std=0.3)
    return model.eval()


def paired(model: nn.Module, layers: int = 1, scale: float = 1.0) -> nn.Module:
    """In the first ``layers`` of a model the second half of all tensors is ``scale`` times the first one."""
    with torch.no_grad():
        for module in list(settled(model))[:layers]:
            for tensor in (*module.parameters(), *(b for b in module.buffers() if b.ndim)):
                tensor[len(tensor) // 2 :] = scale * tensor[: len(tensor) // 2]
    return model


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def images() -> nn.Module:
    """Each channel of the convolution has four entries among the inputs of the linear layer."""
    return nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3))


def upsampling() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 3, 2, stride=2))


def error(model: nn.Module, other: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((model(x) - other(x)).norm() / model(x).norm())


def halves(model: nn.Module, x: Tensor, importance: Any = "l2") -> tuple[Plan, nn.Module]:
    plan = graphprune.trace(model, x).plan(0.5, importance=importance)
    return plan, plan.apply(model)


def first_half(group: graphprune.Group, context: object) -> Tensor:
    """An importance that keeps the first channels."""
    return -torch.arange(float(group.units))


# ---------------------------------------------------------------- exact where it can be


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize(("make", "shape"), [(mlp, (5, 6)), (images, (2, 2, 6, 6)), (upsampling, (2, 2, 6, 6))])
def test_channels_that_are_multiples_fold_exactly(
    make: Callable[[], nn.Module], shape: tuple[int, ...], scale: float
) -> None:
    model, x = paired(make(), scale=scale), torch.randn(shape)
    plan, slim = halves(model, x, first_half)
    assert error(model, slim, x) > 0.01
    folding = fold(slim, model, plan, x, ridge=1e-6)
    assert error(model, slim, x) < 1e-4
    assert folding.folded[0].explained > 0.999


@pytest.mark.parametrize("second", [nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8)])
def test_equal_channels_fold_exactly_through_a_norm_and_a_depthwise_convolution(second: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), second, nn.ReLU(), nn.Conv2d(8, 4, 3))
    x = torch.randn(2, 3, 8, 8)
    plan, slim = halves(paired(model, 2), x, first_half)
    assert error(model, slim, x) > 0.01
    fold(slim, model, plan, x, ridge=1e-6)
    assert error(model, slim, x) < 1e-4


def test_depthwise_kernels_that_differ_make_equal_channels_different() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 8, 3, groups=8, bias=False), nn.Conv2d(8, 4, 1))
    x = torch.randn(2, 3, 6, 6)
    with torch.no_grad():
        model[0].weight[:] = model[0].weight[0]
        model[1].weight.copy_(torch.eye(8, 9).view(8, 1, 3, 3))
    plan, slim = halves(model.eval(), x)
    assert fold(slim, model, plan, x).folded[0].explained < 0.01


def test_the_combination_is_that_of_least_squares() -> None:
    model, x = settled(mlp()), torch.randn(5, 6)
    plan, slim = halves(model, x)
    kept = plan.kept["0.weight"][0]
    removed = [i for i in range(8) if i not in kept]
    fold(slim, model, plan, x, ridge=0.1)
    rows = torch.cat([model[0].weight, model[0].bias[:, None]], 1).double().detach()
    second = rows @ rows.T
    penalty = 0.1 * second.diagonal().mean()
    inner = torch.linalg.inv(second[kept][:, kept] + penalty * torch.eye(len(kept)))
    combined = (second[removed][:, kept] @ inner).float()
    expected = model[2].weight[:, kept] + model[2].weight[:, removed] @ combined
    torch.testing.assert_close(slim[2].weight, expected)


# ---------------------------------------------------------------- variances


def test_a_running_variance_follows_what_is_left() -> None:
    """White inputs: the predicted ratio is the one that is seen."""
    model = settled(nn.Sequential(nn.Linear(30, 16), nn.Linear(16, 8, bias=False), nn.BatchNorm1d(8), nn.Linear(8, 2)))
    x = torch.randn(20000, 30)
    with torch.no_grad():
        model[0].bias.zero_()
        model[2].running_var.copy_(model[1](model[0](x)).var(0))
    plan = graphprune.trace(model, x[:2]).plan(0.5, overrides={"1": graphprune.Override(frozen=True)})
    slim = plan.apply(model)
    folding = fold(slim, model, plan, x[:2])
    assert folding.variances == ("2.running_var",)
    with torch.no_grad():
        torch.testing.assert_close(slim[2].running_var, slim[1](slim[0](x)).var(0), rtol=0.05, atol=0)
    assert (slim[2].running_var / model[2].running_var).mean() < 0.95


# ---------------------------------------------------------------- whole networks


def test_a_residual_network_is_folded_everywhere() -> None:
    model, x = settled(resnet_cifar.resnet20()), torch.randn(1, 3, 8, 8)
    plan, slim = halves(model, x)
    folding = fold(slim, model, plan, x)
    assert not folding.left_alone
    assert {f.group for f in folding.folded} == {c.group for c in plan.choices}
    assert len(folding.variances) == 20  # all but the stem's
    assert slim(x).isfinite().all()


def test_channels_of_depthwise_convolutions_are_folded() -> None:
    model, x = settled(mobilenet_v2.mobilenet_v2(num_classes=4)), torch.randn(1, 3, 32, 32)
    plan, slim = halves(model, x)
    assert not fold(slim, model, plan, x).left_alone


def test_nothing_removed_nothing_changed() -> None:
    model, x = settled(resnet_cifar.resnet20()), torch.randn(1, 3, 8, 8)
    plan = graphprune.trace(model, x).plan(0.0)
    slim = plan.apply(model)
    folding = fold(slim, model, plan, x)
    assert not folding.folded
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, slim.state_dict()[name])


# ---------------------------------------------------------------- what is left alone


class Tied(nn.Module):
    """The same matrix makes channels and reads them."""

    def __init__(self) -> None:
        super().__init__()
        self.code = nn.Linear(6, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.code(x).relu(), self.code.weight.t())


class Scaled(nn.Module):
    """A factor for every channel between what makes it and what reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)
        self.scale = nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        return self.leave((self.enter(x) * self.scale).relu())


class Summed(nn.Module):
    """Channels are also read by a sum, which has no columns."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.enter(x).relu()
        return self.leave(y) + y.sum(1, keepdim=True)


class Reused(nn.Module):
    """What reads the channels is also looked at by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.enter(x).relu()) + self.leave.weight.sum(1)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Tied, "used otherwise than as a weight"),
        (Reused, "leave.weight is computed, or used otherwise than as a weight"),
        (Scaled, "scale[0] is neither made by a weight nor reads it"),
        (Summed, "sum reads it without a weight"),
        (lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 3)), "native_layer_norm mixes channels"),
    ],
)
def test_what_columns_cannot_make_up_for_is_left_alone(make: Callable[[], nn.Module], reason: str) -> None:
    model, x = make().eval(), torch.randn(5, 6)
    plan, slim = halves(model, x)
    before = {name: tensor.clone() for name, tensor in slim.state_dict().items()}
    folding = fold(slim, model, plan, x)
    assert not folding.folded
    assert reason in folding.left_alone[0].why
    assert all(torch.equal(tensor, slim.state_dict()[name]) for name, tensor in before.items())


def test_heads_are_left_alone_and_hidden_units_are_not() -> None:
    model, x = vit.vit().eval(), torch.randn(1, 3, 32, 32)
    plan, slim = halves(model, x)
    folding = fold(slim, model, plan, x)
    assert [f.group for f in folding.folded] == [f"blocks.{b}.fc1" for b in range(4)]
    assert any("role is 'heads'" in one.why for one in folding.left_alone)
    text = str(folding)
    assert "4 groups" in text and "blocks.2.fc2.weight" in text and "left alone" in text


# ---------------------------------------------------------------- arguments


def test_wrong_arguments_are_named() -> None:
    model, x = settled(mlp()), torch.randn(5, 6)
    plan, slim = halves(model, x)
    for ridge in (0, float("inf")):
        with pytest.raises(InputError, match=r"ridge: must be a number above 0, but is"):
            fold(slim, model, plan, x, ridge=ridge)
    with pytest.raises(PlanError, match="slim"):
        fold(mlp(), model, plan, x)
    with pytest.raises(PlanError, match="model"):
        fold(slim, nn.Linear(2, 2), plan, x)
    with pytest.raises(InputError, match="meta"):
        fold(plan.apply(model), model.to("meta"), plan, x.to("meta"))
