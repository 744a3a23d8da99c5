"""Odd programs: what Python may do between the layers, in what comes in and in what comes out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.zoos.networks_vision import conv


class _Swish(torch.autograd.Function):
    """Swish with a backward that keeps one tensor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate = torch.sigmoid(x)
        return gradient * (gate * (1 + x * (1 - gate)))


class _Round(torch.autograd.Function):
    """Rounding whose gradient is one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x * 8) / 8

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class CustomGradient(nn.Module):
    """Activations with a gradient written by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 32), nn.Linear(32, 24)
        self.leave = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = _Swish.apply(self.first(x))
        return self.leave(_Swish.apply(_Round.apply(self.second(x))))


class ReversibleBlock(nn.Module):
    """Two streams that are added crosswise, in halves of the channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.f, self.g = nn.Linear(width // 2, width // 2), nn.Linear(width // 2, width // 2)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.chunk(x, 2, dim=-1)
        a = a + F.relu(self.f(b))
        return torch.cat((a, b + F.relu(self.g(a))), dim=-1)


class Gated(nn.Module):
    """A block that is compiled by TorchScript in :class:`Scripted`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate, self.value = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.gate(x)) * self.value(x)


class Scripted(nn.Module):
    """A scripted submodule between ordinary ones."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 8))
        self.block = torch.jit.script(Gated(8))
        self.leave = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.block(self.enter(x)))


def biased_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """The approximation of GELU with the bias added first."""
    y = x + bias
    return y * 0.5 * (1.0 + torch.tanh(0.79788456 * y * (1.0 + 0.044715 * y * y)))


@lru_cache
def scripted_gelu() -> Any:
    """Compiled when it is first needed: TorchScript says that it is deprecated."""
    return torch.jit.script(biased_gelu)


class ScriptedFunction(nn.Module):
    """A scripted function between ordinary layers, as in older language models."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.bias = nn.Linear(12, 48, bias=False), nn.Parameter(torch.randn(48))
        self.leave = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(scripted_gelu()(self.enter(x), self.bias))


def grouped_softmax(x: Tensor) -> Tensor:
    """A softmax over each four channels, a size that is written down."""
    return x.view(x.size(0), -1, 4).softmax(-1).view(x.size(0), -1)


@lru_cache
def scripted_softmax() -> Any:
    return torch.jit.script(grouped_softmax)


class ScriptedSizes(nn.Module):
    """A scripted function with sizes in it: what goes in keeps its width."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Linear(12, 64), nn.GELU(), nn.Linear(64, 8))
        self.leave = nn.Sequential(nn.Linear(8, 64), nn.GELU(), nn.Linear(64, 5))

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(scripted_softmax()(self.enter(x)))


class Siamese(nn.Module):
    """One encoder for two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(conv(3, 24, stride=2), conv(24, 32, stride=2), nn.AdaptiveAvgPool2d(2))
        self.embed = nn.Linear(128, 24)
        self.compare = nn.Linear(4 * 24, 2)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        a, b = (self.embed(self.encoder(x).flatten(1)) for x in (a, b))
        similarity = F.cosine_similarity(a, b)
        return self.compare(torch.cat((a, b, (a - b).abs(), a * b), 1)), similarity


class MultiTask(nn.Module):
    """Several heads on one trunk; a dict comes out, with what each head needs computed on the way."""

    def __init__(self, tasks: dict[str, int] | None = None) -> None:
        super().__init__()
        self.trunk = nn.Sequential(conv(3, 24, stride=2), conv(24, 32))
        tasks = tasks or {"class": 7, "pose": 3}
        self.heads = nn.ModuleDict({name: nn.Linear(32, size) for name, size in tasks.items()})
        self.depth = nn.Sequential(conv(32, 16), nn.Conv2d(16, 1, 1))
        self.log_variance = nn.Parameter(torch.zeros(len(tasks)))

    def forward(self, x: Tensor) -> dict[str, Any]:
        features = self.trunk(x)
        pooled = features.mean((2, 3))
        out: dict[str, Any] = {name: head(pooled) for name, head in self.heads.items()}
        out["dense"] = {"depth": self.depth(features), "scale": self.log_variance.exp()}
        return out


@dataclass
class Detections:
    """What :class:`DataclassOutput` returns."""

    boxes: Tensor
    scores: Tensor
    stride: int
    features: list[Tensor] | None = None


class DataclassOutput(nn.Module):
    """The outputs are fields of a dataclass."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(conv(3, 24, stride=2), conv(24, 32))
        self.boxes, self.scores = nn.Conv2d(32, 4, 1), nn.Conv2d(32, 6, 1)

    def forward(self, x: Tensor) -> Detections:
        x = self.trunk(x)
        return Detections(self.boxes(x), self.scores(x).sigmoid(), stride=2)


class ShapeDependent(nn.Module):
    """Control flow that looks at shapes: padding to a multiple, a projection where widths differ, loops over them."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 32)) -> None:
        super().__init__()
        self.multiple = 4
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in zip((3, *widths), widths, strict=False))
        self.projections = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip((3, *widths), widths, strict=False))
        self.head = nn.Linear(widths[-1], 5)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if height % self.multiple or width % self.multiple:
            x = F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple))
        for layer, projection in zip(self.convs, self.projections, strict=True):
            y = layer(x)
            x = F.relu(y + (projection(x) if x.shape[1] != y.shape[1] else x))
        while x.shape[-1] > 2:
            x = F.avg_pool2d(x, 2)
        return self.head(x.mean(dim=(2, 3)))


class ReshapeHead(nn.Module):
    """The ways to flatten an image for a linear layer."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.features = nn.Sequential(conv(3, 24, stride=2), conv(24, 16, stride=2))
        self.hidden, self.head = nn.Linear(16 * 16, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        if self.way == "reshape":
            x = x.reshape(x.shape[0], -1)
        elif self.way == "view":
            x = x.view(x.size(0), x.size(1) * x.size(2) * x.size(3))
        elif self.way == "product":
            x = x.view(-1, int(torch.prod(torch.tensor(x.shape[1:]))))
        elif self.way == "channels_last":
            x = x.permute(0, 2, 3, 1).flatten(1)
        else:
            x = x.flatten(1)
        return self.head(F.relu(self.hidden(x)))


class SplitSizes(nn.Module):
    """One projection is cut into parts of which the sizes are computed from attributes."""

    def __init__(self, inner: int = 32, state: int = 8, heads: int = 4) -> None:
        super().__init__()
        self.inner, self.state, self.heads = inner, state, heads
        self.enter = nn.Linear(12, 2 * inner + 2 * state + heads)
        self.norm = nn.LayerNorm(inner)
        self.leave = nn.Linear(inner, 5)

    def forward(self, x: Tensor) -> Tensor:
        sizes = [self.inner, self.inner + 2 * self.state, self.heads]
        gate, mixed, steps = torch.split(self.enter(x), sizes, dim=-1)
        values, b, c = torch.split(mixed, [self.inner, self.state, self.state], dim=-1)
        values = values.unflatten(-1, (self.heads, -1)) * F.softplus(steps).unsqueeze(-1)
        values = values.flatten(-2) * (b * c).sum(-1, keepdim=True)
        return self.leave(self.norm(values * F.silu(gate)))


class SlicedHalves(nn.Module):
    """Channels are cut by slices at half of a shape, written into an empty tensor and read back."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.enter = nn.Linear(12, width)
        self.even, self.odd = nn.Linear(width // 2, width // 2), nn.Linear(width // 2, width // 2)
        self.leave = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        half = x.shape[-1] // 2
        out = torch.empty_like(x)
        out[..., :half] = self.even(x[..., :half])
        out[..., half:] = self.odd(x[..., half:])
        return self.leave(F.relu(out))


class SharedWeights(nn.Module):
    """One block run several times, and a decoder that is the encoder's weight transposed."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.enter = nn.Linear(12, width)
        self.block = nn.Sequential(nn.Linear(width, 48), nn.ReLU(), nn.Linear(48, width))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, steps: int = 3) -> Tensor:
        x = self.enter(x)
        for _ in range(steps):
            x = self.norm(x + self.block(x))
        return F.linear(x, self.enter.weight.t())


class Checkpointed(nn.Module):
    """Blocks that are computed again in the backward pass."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.enter = nn.Linear(12, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 48), nn.ReLU(), nn.Linear(48, width)) for _ in range(2)
        )
        self.leave = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        for block in self.blocks:
            x = x + torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)
        return self.leave(x)


class Parametrized(nn.Module):
    """Weights that are computed from others: standardized, spectral, by weight_norm."""

    def __init__(self) -> None:
        super().__init__()
        self.standard = nn.Conv2d(3, 24, 3, padding=1)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(24, 32, 3, padding=1))
        self.scaled = nn.Linear(32, 24)
        self.scale = nn.Parameter(torch.rand(24, 1) + 0.5)
        self.leave = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.standard.weight
        mean, variance = weight.mean((1, 2, 3), keepdim=True), weight.var((1, 2, 3), keepdim=True)
        x = F.relu(F.conv2d(x, (weight - mean) / (variance + 1e-5).sqrt(), self.standard.bias, padding=1))
        x = F.relu(self.normed(x)).mean((2, 3))
        x = F.linear(x, F.normalize(self.scaled.weight, dim=1) * self.scale, self.scaled.bias)
        return self.leave(F.relu(x))
