"""Models that return a gradient of what they compute, such as the forces of an energy, lose their inner channels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import graphprune

IMAGE, VECTOR = (2, 3, 9, 9), (4, 12)


class Force(nn.Module):
    """Minus the gradient of an energy."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.energy = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self.energy(x).sum(), x, create_graph=True)
        return -gradient


def batch_norm() -> nn.Module:
    norm = nn.BatchNorm2d(16)
    nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]
    nn.init.uniform_(norm.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    return norm


def on_images(*layers: nn.Module) -> Force:
    return Force(nn.Conv2d(3, 16, 3), *layers, nn.SiLU(), nn.Flatten(), nn.LazyLinear(1))


def on_vectors(*layers: nn.Module) -> Force:
    return Force(nn.Linear(12, 32), *layers, nn.Linear(32, 1))


EXACT: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "convolutions": (lambda: on_images(nn.SiLU(), nn.Conv2d(16, 24, 3)), IMAGE),
    "without biases": (lambda: on_images(nn.Tanh(), nn.Conv2d(16, 24, 3, bias=False)), IMAGE),
    "groups": (lambda: on_images(nn.SiLU(), nn.Conv2d(16, 24, 3, groups=4)), IMAGE),
    "depthwise": (lambda: on_images(nn.SiLU(), nn.Conv2d(16, 16, 3, groups=16)), IMAGE),
    "transposed": (lambda: on_images(nn.GELU(), nn.ConvTranspose2d(16, 8, 3, stride=2)), IMAGE),
    "batch norm": (lambda: on_images(batch_norm()), IMAGE),
    "average pooling": (lambda: on_images(nn.SiLU(), nn.AvgPool2d(2)), IMAGE),
    "adaptive pooling": (lambda: on_images(nn.SiLU(), nn.AdaptiveAvgPool2d(3)), IMAGE),
    "maximum pooling": (lambda: on_images(nn.SiLU(), nn.MaxPool2d(2)), IMAGE),
    "upsampling": (lambda: on_images(nn.SiLU(), nn.Upsample(scale_factor=2)), IMAGE),
    "bilinear upsampling": (lambda: on_images(nn.SiLU(), nn.Upsample(scale_factor=2, mode="bilinear")), IMAGE),
    "one slope": (lambda: on_vectors(nn.PReLU()), VECTOR),
    "slopes": (lambda: on_vectors(nn.PReLU(32)), VECTOR),
}
OVER_CHANNELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "layer norm": (lambda: on_vectors(nn.LayerNorm(32), nn.SiLU()), VECTOR),
    "layer norm without factors": (lambda: on_vectors(nn.LayerNorm(32, elementwise_affine=False), nn.SiLU()), VECTOR),
    "softmax": (lambda: on_vectors(nn.Softmax(-1)), VECTOR),
    "log softmax": (lambda: on_vectors(nn.LogSoftmax(-1), nn.Tanh()), VECTOR),
}


@pytest.mark.parametrize("name", [*EXACT, *OVER_CHANNELS])
def test_channels_go_the_way_back_that_they_came(name: str) -> None:
    build, shape = (EXACT | OVER_CHANNELS)[name]
    torch.manual_seed(0)
    model, x = build().eval(), torch.randn(shape)
    model(x)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    check = graphprune.verify(model, slim, plan, x)
    assert check.passed, str(check)
    assert bool(check.inexact) == (name in OVER_CHANNELS)
    assert slim(x).abs().max() > 0
    assert plan.entries[1] < 0.7 * plan.entries[0]


class Learner(nn.Module):
    """Takes a step of gradient descent with its own weight before it answers."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.own, self.out = nn.Linear(12, 32), nn.Linear(32, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            error = (self.own(self.inner(x).tanh()) - x).square().mean()
            (gradient,) = torch.autograd.grad(error, self.own.weight, create_graph=self.training)
        better = self.own.weight - 0.1 * gradient
        answer: Tensor = self.out(F.linear(self.inner(x).tanh(), better, self.own.bias))
        return answer


def test_a_model_that_learns_while_it_runs_loses_what_it_learns_with() -> None:
    torch.manual_seed(0)
    model, x = Learner().eval(), torch.randn(VECTOR)
    plan = graphprune.trace(model, x).plan(0.5)
    slim = plan.apply(model)
    assert slim.inner.out_features == slim.own.in_features == 16
    check = graphprune.verify(model, slim, plan, x)
    assert check.passed, str(check)
    slim.train()(x).sum().backward()


class OfKernel(nn.Module):
    """The gradient of an energy with respect to a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(3, 8, 3)
        self.kernel = nn.Parameter(torch.randn(4, 8, 3))

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            kernel = self.kernel.detach().requires_grad_(True)
            energy = F.conv1d(self.first(x).tanh(), kernel).square().sum()
            (gradient,) = torch.autograd.grad(energy, kernel, create_graph=True)
        return gradient


def test_the_gradient_of_a_kernel_keeps_what_it_is_made_of() -> None:
    frozen = graphprune.trace(OfKernel().eval(), torch.randn(2, 3, 9)).frozen
    reasons = {item.axis: item.reason for item in frozen}
    assert reasons.keys() >= {"first.weight[0]", "kernel[0]", "kernel[1]"}
    assert "convolution_backward: the gradient of a weight is a result" in reasons["kernel[1]"]


def test_gradients_that_nobody_turned_on_are_explained() -> None:
    class Unguarded(Force):
        def forward(self, x: Tensor) -> Tensor:
            x = x.requires_grad_(True)
            return -torch.autograd.grad(self.energy(x).sum(), x)[0]

    with pytest.raises(graphprune.TraceError, match="does not require grad") as raised:
        graphprune.trace(Unguarded(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 1)), torch.randn(*VECTOR))
    assert "torch.enable_grad()" in raised.value.do
