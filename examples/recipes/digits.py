"""What the recipes share: scikit-learn's digits, accuracy, and a table of what was measured at each step.

The data: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

import sys
from dataclasses import dataclass, field

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import graphprune


def begin(seed: int = 0) -> bool:
    """One thread and fixed random numbers. Is the recipe to run in full (``--full``), or in a few seconds?"""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    return "--full" in sys.argv[1:]


def load(size: int = 8) -> tuple[TensorDataset, TensorDataset]:
    """1347 images to train with and 450 to test with, [1, size, size] in [-1, 1], larger by a black border; labels."""
    data, border = load_digits(), size - 8
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    images = F.pad(images, (border // 2, border - border // 2) * 2, value=-1)
    train, test = train_test_split(range(len(images)), test_size=450, stratify=data.target, random_state=0)
    labels = torch.tensor(data.target)
    return TensorDataset(images[train], labels[train]), TensorDataset(images[test], labels[test])


def batches(data: TensorDataset, size: int = 64) -> DataLoader:
    """Shuffled batches of images [size, 1, h, w] and labels [size]."""
    return DataLoader(data, size, shuffle=True, drop_last=True)


def resnet18() -> nn.Module:
    """Torchvision's ResNet-18 for small gray images: a first convolution of 3x3, and no pooling before the blocks."""
    from torchvision.models import resnet18

    model = resnet18(num_classes=10)
    model.conv1, model.maxpool = nn.Conv2d(1, 64, 3, padding=1, bias=False), nn.Identity()
    return model


@torch.no_grad()
def accuracy(model: nn.Module, data: TensorDataset) -> float:
    """The fraction of images that the model reads right."""
    images, labels = data.tensors
    found = torch.cat([model.eval()(part).argmax(1) for part in images.split(150)])
    return (found == labels).float().mean().item()


@dataclass
class Table:
    """Networks at the steps of a recipe, measured on one image and tested with the same 450."""

    test: TensorDataset
    rows: dict[str, graphprune.Measurement] = field(default_factory=dict)

    def add(self, step: str, model: nn.Module) -> graphprune.Measurement:
        """Measure a network as it is now. Each step has a name of its own."""
        assert step not in self.rows, step
        image = self.test.tensors[0][:1]
        self.rows[step] = graphprune.measure(model, image, evaluate=lambda m: {"accuracy": accuracy(m, self.test)})
        return self.rows[step]

    def __str__(self) -> str:
        width = max(map(len, self.rows))
        names = ("parameters", "non-zero", "MACs", "bytes", "ms", "accuracy")
        lines = [" " * width + "".join(f"{name:>12}" for name in names)]
        for step, m in self.rows.items():
            sizes = "".join(f"{n:>12,}" for n in (m.parameters, m.nonzero, m.macs, m.disk_bytes))
            lines.append(f"{step:<{width}}{sizes}{m.seconds * 1e3:>12.2f}{m.scores['accuracy']:>12.1%}")
        return "\n".join(lines)
