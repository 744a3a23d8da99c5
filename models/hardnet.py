"""A small convolutional network that is deliberately hard to prune: most couplings that occur in practice.

Each stage is taken from a published design:

- dense concatenation with BatchNorm in front: DenseNet, Huang et al. (2016), https://arxiv.org/abs/1608.06993
- chunk, depthwise convolution and channel shuffle: ShuffleNetV2, Ma et al. (2018), https://arxiv.org/abs/1807.11164
- grouped convolution in a residual block: ResNeXt, Xie et al. (2016), https://arxiv.org/abs/1611.05431
- squeeze-and-excitation: SENet, Hu et al. (2017), https://arxiv.org/abs/1709.01507
- split and gate: gated linear units, Dauphin et al. (2016), https://arxiv.org/abs/1612.08083
- parallel branches: GoogLeNet, Szegedy et al. (2014), https://arxiv.org/abs/1409.4842
- flatten while there is still more than one pixel: every network before global pooling
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Expected = tuple[str, int, tuple[str, ...]]  # role, units, members: see models/__init__.py


class ConvNorm(nn.Module):
    """Convolution and BatchNorm, [b, in, s, s] -> [b, out, s / stride, s / stride]."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class DenseLayer(nn.Module):
    """Append `growth` new channels to the input, [b, c, s, s] -> [b, c + growth, s, s]."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.conv(F.relu(self.bn(x)))), dim=1)


class ShuffleUnit(nn.Module):
    """Transform one half of the channels, keep the other, interleave them: [b, c, s, s] -> [b, c, s, s]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.halves = 2
        self.enter = ConvNorm(half, half, 1)
        self.depthwise = ConvNorm(half, half, 3, groups=half)
        self.leave = ConvNorm(half, half, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept, y = x.chunk(self.halves, dim=1)  # [b, c / 2, s, s] each
        y = self.depthwise(F.relu(self.enter(y)))
        y = F.relu(self.leave(y))
        return shuffle(torch.cat((kept, y), dim=1), self.halves)


class SqueezeExcite(nn.Module):
    """Scale each channel by a number in (0, 1) that depends on the means of all channels."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, hidden, 1)
        self.excite = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        scale = F.adaptive_avg_pool2d(x, 1)  # [b, c, 1, 1]
        scale = F.relu(self.squeeze(scale))  # [b, hidden, 1, 1]
        return x * torch.sigmoid(self.excite(scale))


class GroupedBlock(nn.Module):
    """Residual block around a grouped 3x3 and squeeze-and-excitation: [b, c, s, s] -> [b, c, s, s]."""

    def __init__(self, channels: int, width: int, groups: int) -> None:
        super().__init__()
        self.reduce = ConvNorm(channels, width, 1)
        self.grouped = ConvNorm(width, width, 3, groups=groups)
        self.se = SqueezeExcite(width, width // 4)
        self.expand = ConvNorm(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.reduce(x))  # [b, width, s, s]
        y = self.se(F.relu(self.grouped(y)))
        return F.relu(x + self.expand(y))


class GatedUnit(nn.Module):
    """Residual unit whose one convolution computes values and their gates: [b, c, s, s] -> [b, c, s, s]."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.fused = ConvNorm(channels, 2 * width, 1)
        self.project = ConvNorm(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.fused(x).split(self.width, dim=1)  # [b, width, s, s] each
        return x + self.project(value * torch.sigmoid(gate))


class Branches(nn.Module):
    """Four branches side by side, [b, c, s, s] -> [b, 16 + 16 + 8 + 8, s, s]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.point = ConvNorm(channels, 16, 1)
        self.medium = nn.Sequential(ConvNorm(channels, 12, 1), nn.ReLU(), ConvNorm(12, 16, 3))
        self.large = nn.Sequential(
            ConvNorm(channels, 8, 1), nn.ReLU(), ConvNorm(8, 10, 3), nn.ReLU(), ConvNorm(10, 8, 3)
        )
        self.pooled = nn.Sequential(nn.MaxPool2d(3, stride=1, padding=1), ConvNorm(channels, 8, 1))

    def forward(self, x: Tensor) -> Tensor:
        branches = (self.point(x), self.medium(x), self.large(x), self.pooled(x))
        return F.relu(torch.cat(branches, dim=1))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside the identity: [b, c, s, s] -> [b, c, s, s]."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.first = ConvNorm(channels, hidden, 3)
        self.second = ConvNorm(hidden, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class HardNet(nn.Module):
    """Four resolutions, eight kinds of coupling."""

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.grid = 2
        self.stem = ConvNorm(in_channels, 24, 3)
        self.dense = nn.Sequential(DenseLayer(24, 8), DenseLayer(32, 8), DenseLayer(40, 8))
        self.transition = ConvNorm(48, 32, 1)
        self.shuffle = nn.Sequential(ShuffleUnit(32), ShuffleUnit(32))
        self.widen = ConvNorm(32, 48, 3, stride=2)
        self.grouped = nn.Sequential(GroupedBlock(48, 48, groups=4), GroupedBlock(48, 48, groups=4))
        self.gated = GatedUnit(48, 24)
        self.branches = Branches(48)
        self.residual = ResidualBlock(48, 20)
        self.fc1 = nn.Linear(48 * (1 + self.grid**2), 32)
        self.fc2 = nn.Linear(32, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images [b, in_channels, s, s] -> logits [b, num_classes], for s from 32."""
        x = F.relu(self.stem(x))  # [b, 24, s, s]
        x = self.dense(x)  # [b, 48, s, s]
        x = F.avg_pool2d(F.relu(self.transition(x)), 2)  # [b, 32, s / 2, s / 2]
        x = self.shuffle(x)  # [b, 32, s / 2, s / 2]
        x = F.relu(self.widen(x))  # [b, 48, s / 4, s / 4]
        x = self.gated(self.grouped(x))  # [b, 48, s / 4, s / 4]
        x = self.branches(F.max_pool2d(x, 2))  # [b, 48, s / 8, s / 8]
        return self.classify(self.residual(x))

    def classify(self, x: Tensor) -> Tensor:
        """Each channel goes in as its mean over the image and its means over the four quarters of it."""
        whole = x.mean(dim=(2, 3))  # [b, 48]
        quarters = F.adaptive_avg_pool2d(x, self.grid).flatten(1)  # [b, 48 * 4]
        return self.fc2(F.relu(self.fc1(torch.cat((whole, quarters), dim=1))))


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Channels 0, c/2, 1, c/2 + 1, ... for two groups: [b, c, h, w] -> [b, c, h, w]."""
    b, _, h, w = x.shape
    x = x.view(b, groups, -1, h, w).transpose(1, 2)  # [b, c / groups, groups, h, w]
    return x.reshape(b, -1, h, w)


def hardnet(num_classes: int = 10, in_channels: int = 3) -> HardNet:
    """The network, 0.08 M parameters.

    >>> hardnet()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    return HardNet(num_classes, in_channels)


def _bn(name: str) -> tuple[str, ...]:
    return tuple(f"{name}.{tensor}[0]" for tensor in ("weight", "bias", "running_mean", "running_var"))


def _norm(name: str) -> tuple[str, ...]:
    """Axes of a `ConvNorm` that its output channels occur in."""
    return f"{name}.conv.weight[0]", *_bn(f"{name}.bn")


def _dense(first: int) -> tuple[str, ...]:
    """What reads the concatenation from dense layer `first` on."""
    layers = range(first, 3)
    read = (axis for layer in layers for axis in (*_bn(f"dense.{layer}.bn"), f"dense.{layer}.conv.weight[1]"))
    return *read, "transition.conv.weight[1]"


def _shuffle(unit: str) -> Expected:
    """Within the transformed half, a depthwise convolution keeps channels apart."""
    written = (*_norm(f"{unit}.enter"), *_norm(f"{unit}.depthwise"))
    return "mlp", 16, (*written, f"{unit}.leave.conv.weight[1]")


def _groups(block: str) -> Expected:
    """A whole group of the grouped convolution, with its inputs and outputs."""
    excite = (f"{block}.se.squeeze.weight[1]", f"{block}.se.excite.weight[0]", f"{block}.se.excite.bias[0]")
    written = (*_norm(f"{block}.reduce"), *_norm(f"{block}.grouped"))
    return "groups", 4, (*written, *excite, f"{block}.expand.conv.weight[1]")


def _squeezed(block: str) -> Expected:
    name = f"{block}.se"
    return "mlp", 12, (f"{name}.squeeze.weight[0]", f"{name}.squeeze.bias[0]", f"{name}.excite.weight[1]")


def _branch(last: str, width: int) -> Expected:
    """A branch's share of the concatenation, which a residual block adds to and two linear inputs read."""
    written = (*_norm(f"branches.{last}"), *_norm("residual.second"))
    return "width", width, (*written, "residual.first.conv.weight[1]", "fc1.weight[1]")


# For hardnet().
EXPECTED_GROUPS: tuple[Expected, ...] = (
    ("mlp", 24, (*_norm("stem"), *_dense(0))),
    ("mlp", 8, ("dense.0.conv.weight[0]", *_dense(1))),
    ("mlp", 8, ("dense.1.conv.weight[0]", *_dense(2))),
    ("mlp", 8, ("dense.2.conv.weight[0]", *_dense(3))),
    _shuffle("shuffle.0"),
    _shuffle("shuffle.1"),
    # Outputs of `transition`, t0 to t31, and of the two transformed halves, u0 to u15 and v0 to v15, by use:
    ("mlp", 16, (*_norm("transition"), "shuffle.0.enter.conv.weight[1]")),  # t16 to t31
    # shuffle.0 puts out t0, u0, t1, u1, ... t15, u15, so that shuffle.1 transforms t8, u8, ... t15, u15,
    ("mlp", 8, (*_norm("transition"), "shuffle.1.enter.conv.weight[1]")),
    ("mlp", 8, (*_norm("shuffle.0.leave"), "shuffle.1.enter.conv.weight[1]")),
    # and keeps t0, u0, ... t7, u7, which go on to `widen` with v0 to v15.
    ("mlp", 8, (*_norm("transition"), "widen.conv.weight[1]")),
    ("mlp", 8, (*_norm("shuffle.0.leave"), "widen.conv.weight[1]")),
    ("mlp", 16, (*_norm("shuffle.1.leave"), "widen.conv.weight[1]")),
    (
        "width",
        48,
        (
            *_norm("widen"),
            *("grouped.0.reduce.conv.weight[1]", *_norm("grouped.0.expand")),
            *("grouped.1.reduce.conv.weight[1]", *_norm("grouped.1.expand")),
            *("gated.fused.conv.weight[1]", *_norm("gated.project")),
            *("branches.point.conv.weight[1]", "branches.medium.0.conv.weight[1]"),
            *("branches.large.0.conv.weight[1]", "branches.pooled.1.conv.weight[1]"),
        ),
    ),
    _groups("grouped.0"),
    _squeezed("grouped.0"),
    _groups("grouped.1"),
    _squeezed("grouped.1"),
    ("mlp", 24, (*_norm("gated.fused"), "gated.project.conv.weight[1]")),
    ("mlp", 12, (*_norm("branches.medium.0"), "branches.medium.2.conv.weight[1]")),
    ("mlp", 8, (*_norm("branches.large.0"), "branches.large.2.conv.weight[1]")),
    ("mlp", 10, (*_norm("branches.large.2"), "branches.large.4.conv.weight[1]")),
    _branch("point", 16),
    _branch("medium.2", 16),
    _branch("large.4", 8),
    _branch("pooled.1", 8),
    ("mlp", 20, (*_norm("residual.first"), "residual.second.conv.weight[1]")),
    ("mlp", 32, ("fc1.weight[0]", "fc1.bias[0]", "fc2.weight[1]")),
)
