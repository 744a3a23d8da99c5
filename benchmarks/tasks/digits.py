"""Handwritten digits of scikit-learn, drawn as large as CIFAR's images, and four networks that read them.

The data: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.tasks.task import Pair, SplitTask, each_output
from models.mobilenet_v2 import mobilenet_v2
from models.resnet_cifar import resnet20
from models.vit import vit

SIZE = 32
TEST, VALIDATION = 450, 225
SHIFT = 3
VARIANTS = 4
"""Of each calibration sample, itself counted, where a library may see what training sees."""
PLACES = [(down, right) for down in (-SHIFT, 0, SHIFT) for right in (-SHIFT, 0, SHIFT)]
"""Where images are put to tell networks apart that read nearly all of them where they are."""


@dataclass(frozen=True)
class Split:
    """Images [n, 3, 32, 32], standardized by the training images, and labels [n]."""

    images: Tensor
    labels: Tensor


@cache
def load() -> tuple[Split, Split]:
    """1347 images to train with and 450 to test with, always the same: every digit has its share in both."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    small = torch.tensor(data.images, dtype=torch.float32)[:, None]
    images = F.interpolate(small, (SIZE, SIZE), mode="bilinear", align_corners=False).expand(-1, 3, -1, -1)
    train, test = train_test_split(range(len(images)), test_size=TEST, stratify=data.target, random_state=0)
    labels = torch.tensor(data.target)
    center, spread = images[train].mean(), images[train].std()
    standard = (images - center) / spread
    return Split(standard[train], labels[train]), Split(standard[test], labels[test])


@cache
def load_without_test() -> tuple[Split, Split]:
    """The images to train with, split once more: 1122 to train with and 225 to choose settings by."""
    from sklearn.model_selection import train_test_split

    whole, _ = load()
    parts = train_test_split(range(len(whole.labels)), test_size=VALIDATION, stratify=whole.labels, random_state=0)
    train, held_back = (Split(whole.images[part], whole.labels[part]) for part in parts)
    return train, held_back


@dataclass(frozen=True)
class Shifted:
    """Shuffled batches of images that are moved by up to ``SHIFT`` pixels, anew each time they are read."""

    split: Split
    batch_size: int

    def __len__(self) -> int:
        return len(self.split.labels) // self.batch_size

    def __iter__(self) -> Iterator[Pair]:
        order = torch.randperm(len(self.split.labels))[: len(self) * self.batch_size]
        for chosen in order.split(self.batch_size):
            yield shifted(self.split.images[chosen]), self.split.labels[chosen]


def shifted(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Each image [n, c, h, w] moved by at most ``SHIFT`` pixels in both directions, by random numbers."""
    top, left = torch.randint(2 * SHIFT + 1, (2, len(images), 1), generator=generator)
    return moved(images, SHIFT - top, SHIFT - left)


def moved(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Images [n, c, h, w] moved by so many pixels [n or 1, 1], at most ``SHIFT``; their borders are repeated."""
    n, channels, height, width = images.shape
    padded = F.pad(images, (SHIFT,) * 4, mode="replicate")
    rows, columns = SHIFT - down + torch.arange(height), SHIFT - right + torch.arange(width)
    one = torch.arange(n)[:, None, None, None]
    return padded[one, torch.arange(channels)[:, None, None], rows[:, None, :, None], columns[:, None, None, :]]


def resnet18() -> nn.Module:
    """Torchvision's ResNet-18 with CIFAR's stem: a 3x3 convolution that keeps the resolution; then its own pooling."""
    from torchvision.models import resnet18

    model = resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    return model


SGD: Mapping[str, Any] = {"optimizer": "sgd", "lr": 0.1, "weight_decay": 5e-4, "warmup": 20, "epochs": 8}
ADAMW: Mapping[str, Any] = {
    "optimizer": "adamw",
    "lr": 4e-3,
    "weight_decay": 0.05,
    "warmup": 60,
    "epochs": 60,
    "clip": 1.0,
}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Mapping[str, Any], Mapping[str, Any]]] = {
    "resnet20": (resnet20, SGD, {**SGD, "lr": 0.03, "epochs": 3}),
    "mobilenetv2": (
        lambda: mobilenet_v2(num_classes=10, width=0.35, small_input=True),
        {**SGD, "epochs": 10},
        {**SGD, "lr": 0.03, "epochs": 3},
    ),
    "vit": (lambda: vit(patch_size=8), ADAMW, {**ADAMW, "lr": 1e-3, "warmup": 20, "epochs": 12}),
    "resnet18": (resnet18, {**SGD, "lr": 0.05, "epochs": 12}, {**SGD, "lr": 0.02, "epochs": 3}),
}
"""How a network is made, trained, and trained again."""


class Digits(SplitTask):
    """Tell ten digits apart.

    Args:
        network: one of ``NETWORKS``.
    """

    metric: ClassVar[str] = "test accuracy"

    def __init__(self, network: str, quick: bool = False) -> None:
        super().__init__(quick)
        self.name = f"digits-{network}"
        self._make, self.training, self.tuning = NETWORKS[network]
        self.train, self.test = load()

    def validating(self) -> Digits:
        found = copy.copy(self)
        found.name = f"{self.name}-validation"
        found.train, found.test = load_without_test()
        return found

    def fresh(self) -> nn.Module:
        return self._make()

    @property
    def example_inputs(self) -> Tensor:
        return self.test.images[:1]

    @property
    def batches(self) -> Shifted:
        return Shifted(self.train, 16 if self.quick else 64)

    def labeled(self, samples: int, seed: int) -> list[Pair]:
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(self.train.labels), generator=generator)[:samples]
        return [(self.train.images[part], self.train.labels[part]) for part in chosen.split(64)]

    def varied(self, samples: int, seed: int) -> list[Pair]:
        generator = torch.Generator().manual_seed(seed)
        found = self.labeled(samples, seed)
        more = [(shifted(images, generator), labels) for _ in range(VARIANTS - 1) for images, labels in found]
        return found + more

    @staticmethod
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target)

    def evaluate(self, model: nn.Module) -> float:
        return self._accuracy(model, [(0, 0)])

    @property
    def fine_metric(self) -> str:
        return f"{self.metric}, images at {len(PLACES)} places"

    def evaluate_finely(self, model: nn.Module) -> float:
        return self._accuracy(model, PLACES)

    def _accuracy(self, model: nn.Module, places: Sequence[tuple[int, int]]) -> float:
        tested = 32 if self.quick else len(self.test.labels)
        pixels = torch.tensor(places)[..., None, None]
        parts = [moved(images, *place) for place in pixels for images in self.test.images[:tested].split(150)]
        found = each_output(model, parts, lambda m, images: m(images).argmax(1))
        return (found == self.test.labels[:tested].repeat(len(places))).float().mean().item()
