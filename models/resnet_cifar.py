"""ResNet-20 and ResNet-56 for 32x32 images.

He, Zhang, Ren, Sun: "Deep Residual Learning for Image Recognition" (2015), section 4.2, https://arxiv.org/abs/1512.03385.
Shortcuts are the paper's option B: a 1x1 convolution where the shape changes, the identity elsewhere.
"""

from torch import Tensor, nn
from torch.nn import functional as F

Expected = tuple[str, int, tuple[str, ...]]  # role, units, members: see models/__init__.py


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut: [b, in, s, s] -> [b, out, s / stride, s / stride]."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """Three stages of 16, 32 and 64 channels with `blocks` residual blocks each: 6 * blocks + 2 layers."""

    def __init__(self, blocks: int, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = stage(16, 16, blocks, stride=1)
        self.layer2 = stage(16, 32, blocks, stride=2)
        self.layer3 = stage(32, 64, blocks, stride=2)
        self.fc = nn.Linear(64, num_classes)
        self.apply(init_weights)

    def forward(self, x: Tensor) -> Tensor:
        """Images [b, in_channels, s, s] -> logits [b, num_classes]; s is 32 in the paper, any size works."""
        x = F.relu(self.bn1(self.conv1(x)))  # [b, 16, s, s]
        x = self.layer1(x)  # [b, 16, s, s]
        x = self.layer2(x)  # [b, 32, s / 2, s / 2]
        x = self.layer3(x)  # [b, 64, s / 4, s / 4]
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)  # [b, 64]
        return self.fc(x)


def stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
    """`blocks` residual blocks, of which the first one changes width and resolution."""
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(blocks - 1)))


def init_weights(module: nn.Module) -> None:
    """He initialization, https://arxiv.org/abs/1502.01852."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def resnet20(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """ResNet-20, 0.27 M parameters.

    >>> import torch
    >>> resnet20()(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """
    return ResNet(3, num_classes, in_channels)


def resnet56(num_classes: int = 10, in_channels: int = 3) -> ResNet:
    """ResNet-56, 0.86 M parameters."""
    return ResNet(9, num_classes, in_channels)


def _bn(name: str) -> tuple[str, ...]:
    return tuple(f"{name}.{tensor}[0]" for tensor in ("weight", "bias", "running_mean", "running_var"))


def _inside(block: str, width: int) -> Expected:
    """Between the two convolutions of a block, channels concern nothing else."""
    return "mlp", width, (f"{block}.conv1.weight[0]", *_bn(f"{block}.bn1"), f"{block}.conv2.weight[1]")


# For resnet20(). The residual additions of a stage make one group of everything that writes or reads them.
EXPECTED_GROUPS: tuple[Expected, ...] = (
    (
        "width",
        16,
        (
            *("conv1.weight[0]", *_bn("bn1")),
            *("layer1.0.conv1.weight[1]", "layer1.0.conv2.weight[0]", *_bn("layer1.0.bn2")),
            *("layer1.1.conv1.weight[1]", "layer1.1.conv2.weight[0]", *_bn("layer1.1.bn2")),
            *("layer1.2.conv1.weight[1]", "layer1.2.conv2.weight[0]", *_bn("layer1.2.bn2")),
            *("layer2.0.conv1.weight[1]", "layer2.0.shortcut.0.weight[1]"),
        ),
    ),
    (
        "width",
        32,
        (
            *("layer2.0.shortcut.0.weight[0]", *_bn("layer2.0.shortcut.1")),
            *("layer2.0.conv2.weight[0]", *_bn("layer2.0.bn2")),
            *("layer2.1.conv1.weight[1]", "layer2.1.conv2.weight[0]", *_bn("layer2.1.bn2")),
            *("layer2.2.conv1.weight[1]", "layer2.2.conv2.weight[0]", *_bn("layer2.2.bn2")),
            *("layer3.0.conv1.weight[1]", "layer3.0.shortcut.0.weight[1]"),
        ),
    ),
    (
        "width",
        64,
        (
            *("layer3.0.shortcut.0.weight[0]", *_bn("layer3.0.shortcut.1")),
            *("layer3.0.conv2.weight[0]", *_bn("layer3.0.bn2")),
            *("layer3.1.conv1.weight[1]", "layer3.1.conv2.weight[0]", *_bn("layer3.1.bn2")),
            *("layer3.2.conv1.weight[1]", "layer3.2.conv2.weight[0]", *_bn("layer3.2.bn2")),
            "fc.weight[1]",
        ),
    ),
    *(_inside(f"layer1.{block}", 16) for block in range(3)),
    *(_inside(f"layer2.{block}", 32) for block in range(3)),
    *(_inside(f"layer3.{block}", 64) for block in range(3)),
)
