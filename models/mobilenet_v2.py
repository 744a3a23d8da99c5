"""MobileNetV2.

Sandler, Howard, Zhu, Zhmoginov, Chen: "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (2018),
table 2, https://arxiv.org/abs/1801.04381.
"""

from torch import Tensor, nn
from torch.nn import functional as F

Expected = tuple[str, int, tuple[str, ...]]  # role, units, members: see models/__init__.py

# Expansion of the hidden width, output channels, blocks, stride of the first block.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class ConvNorm(nn.Module):
    """Convolution and BatchNorm, [b, in, s, s] -> [b, out, s / stride, s / stride]."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class InvertedResidual(nn.Module):
    """Widen with a 1x1, filter each channel with a 3x3, narrow with a 1x1; add the input if shapes allow."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.expand = ConvNorm(in_channels, hidden, 1) if expansion != 1 else nn.Identity()
        self.depthwise = ConvNorm(hidden, hidden, 3, stride, groups=hidden)
        self.project = ConvNorm(hidden, out_channels, 1)
        self.residual = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.expand(x))  # [b, hidden, s, s]
        y = F.relu6(self.depthwise(y))  # [b, hidden, s / stride, s / stride]
        y = self.project(y)  # [b, out, s / stride, s / stride]
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """Stem, the inverted residuals of `STAGES`, a last 1x1 convolution and a classifier."""

    def __init__(self, num_classes: int, width: float, in_channels: int, small_input: bool) -> None:
        super().__init__()
        channels = round_to_eight(32 * width)
        last = round_to_eight(1280 * max(1.0, width))
        self.stem = ConvNorm(in_channels, channels, 3, stride=1 if small_input else 2)
        blocks: list[nn.Module] = []
        for number, (expansion, out, repeats, stride) in enumerate(STAGES):
            out = round_to_eight(out * width)
            stride = 1 if small_input and number == 1 else stride
            for repeat in range(repeats):
                blocks.append(InvertedResidual(channels, out, stride if repeat == 0 else 1, expansion))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.last = ConvNorm(channels, last, 1)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(last, num_classes)
        self.apply(init_weights)

    def forward(self, x: Tensor) -> Tensor:
        """Images [b, in_channels, s, s] -> logits [b, num_classes]."""
        x = F.relu6(self.stem(x))  # [b, 32, s / 2, s / 2]
        x = self.blocks(x)  # [b, 320, s / 32, s / 32]
        x = F.relu6(self.last(x))  # [b, 1280, s / 32, s / 32]
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)  # [b, 1280]
        return self.classifier(self.dropout(x))


def round_to_eight(channels: float) -> int:
    """The nearest multiple of 8, but never more than 10 % below `channels`.

    >>> round_to_eight(32 * 0.75), round_to_eight(24 * 0.35)
    (24, 8)
    """
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def init_weights(module: nn.Module) -> None:
    """He initialization for convolutions, a small normal distribution for the classifier."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
    elif isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


def mobilenet_v2(
    num_classes: int = 1000, width: float = 1.0, in_channels: int = 3, small_input: bool = False
) -> MobileNetV2:
    """MobileNetV2 for 224x224 images; `small_input` halves the resolution 3 times instead of 5, for 32x32.

    >>> import torch
    >>> mobilenet_v2(num_classes=10, small_input=True)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    return MobileNetV2(num_classes, width, in_channels, small_input)


def _norm(name: str) -> tuple[str, ...]:
    """Axes of a `ConvNorm` that its output channels occur in."""
    bn = (f"{name}.bn.{tensor}[0]" for tensor in ("weight", "bias", "running_mean", "running_var"))
    return f"{name}.conv.weight[0]", *bn


def _hidden(block: int, width: int) -> Expected:
    """The widened channels of a block, which the depthwise convolution keeps apart."""
    written = (*_norm(f"blocks.{block}.expand"), *_norm(f"blocks.{block}.depthwise"))
    return "mlp", width, (*written, f"blocks.{block}.project.conv.weight[1]")


def _outputs(blocks: range, width: int) -> Expected:
    """What the residual additions of a stage couple: its projections, and the expansions that read them."""
    written = (axis for block in blocks for axis in _norm(f"blocks.{block}.project"))
    read = (f"blocks.{block + 1}.expand.conv.weight[1]" for block in blocks)
    return "width" if len(blocks) > 1 else "mlp", width, (*written, *read)


# For mobilenet_v2(). The first block has no expansion: the stem's channels are its hidden channels.
EXPECTED_GROUPS: tuple[Expected, ...] = (
    ("mlp", 32, (*_norm("stem"), *_norm("blocks.0.depthwise"), "blocks.0.project.conv.weight[1]")),
    _outputs(range(1), 16),
    _outputs(range(1, 3), 24),
    _outputs(range(3, 6), 32),
    _outputs(range(6, 10), 64),
    _outputs(range(10, 13), 96),
    _outputs(range(13, 16), 160),
    ("mlp", 320, (*_norm("blocks.16.project"), "last.conv.weight[1]")),
    ("mlp", 1280, (*_norm("last"), "classifier.weight[1]")),
    _hidden(1, 96),
    *(_hidden(block, 144) for block in (2, 3)),
    *(_hidden(block, 192) for block in (4, 5, 6)),
    *(_hidden(block, 384) for block in (7, 8, 9, 10)),
    *(_hidden(block, 576) for block in (11, 12, 13)),
    *(_hidden(block, 960) for block in (14, 15, 16)),
)
