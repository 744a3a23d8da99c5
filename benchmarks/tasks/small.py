"""Small networks that train in seconds, on the digits at their own size and on the standard library's text.

They are judged by the cross-entropy on test data, which tells networks apart that read nearly all of 450 digits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.tasks.digits import Split, load
from benchmarks.tasks.task import Pair, Task, each_output
from benchmarks.tasks.text import CONTEXT, Text
from models.gpt import gpt
from models.mobilenet_v2 import mobilenet_v2
from models.resnet_cifar import resnet20
from models.vit import vit

SIZE = 8


def plain_cnn() -> nn.Module:
    """Four convolutions in a row, with batch norms."""
    widths = (3, 32, 64, 64, 128)
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(pairwise(widths)):
        layers += [nn.Conv2d(inputs, outputs, 3, 1 + number % 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))


SGD: Mapping[str, Any] = {"optimizer": "sgd", "lr": 0.05, "weight_decay": 5e-4, "warmup": 20, "epochs": 10}
ADAMW: Mapping[str, Any] = {"optimizer": "adamw", "lr": 2e-3, "weight_decay": 0.05, "warmup": 30, "epochs": 25}
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Mapping[str, Any], Mapping[str, Any]]] = {
    "cnn": (plain_cnn, SGD, {**SGD, "lr": 0.01, "epochs": 4}),
    "resnet": (resnet20, SGD, {**SGD, "lr": 0.01, "epochs": 4}),
    "mobilenet": (
        lambda: mobilenet_v2(num_classes=10, width=0.35, small_input=True),
        SGD,
        {**SGD, "lr": 0.01, "epochs": 4},
    ),
    "vit": (lambda: vit(image_size=SIZE, patch_size=2), ADAMW, {**ADAMW, "lr": 5e-4, "epochs": 8}),
}
"""How a network is made, trained, and trained again."""


@dataclass(frozen=True)
class Shuffled:
    """Batches of images in a new order each time they are read."""

    split: Split
    batch_size: int

    def __len__(self) -> int:
        return len(self.split.labels) // self.batch_size

    def __iter__(self) -> Iterator[Pair]:
        for chosen in torch.randperm(len(self.split.labels))[: len(self) * self.batch_size].split(self.batch_size):
            yield self.split.images[chosen], self.split.labels[chosen]


class SmallDigits(Task):
    """Tell ten digits apart, in 8 x 8 pixels.

    Args:
        network: one of ``NETWORKS``.
    """

    metric: ClassVar[str] = "test cross-entropy"
    higher: ClassVar[bool] = False

    def __init__(self, network: str, quick: bool = False) -> None:
        super().__init__(quick)
        self.name = f"small-{network}"
        self._make, self.training, self.tuning = NETWORKS[network]

    @cached_property
    def _splits(self) -> tuple[Split, Split]:
        train, test = (Split(F.avg_pool2d(s.images, s.images.shape[-1] // SIZE), s.labels) for s in load())
        return train, test

    def fresh(self) -> nn.Module:
        return self._make()

    @property
    def example_inputs(self) -> Tensor:
        return self._splits[1].images[:1]

    @property
    def batches(self) -> Shuffled:
        return Shuffled(self._splits[0], 16 if self.quick else 64)

    def labeled(self, samples: int, seed: int) -> list[Pair]:
        train = self._splits[0]
        chosen = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(seed))[:samples]
        return [(train.images[part], train.labels[part]) for part in chosen.split(32)]

    @staticmethod
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target)

    def evaluate(self, model: nn.Module) -> float:
        test = self._splits[1]
        tested = 32 if self.quick else len(test.labels)
        outputs = each_output(model, test.images[:tested].split(150), lambda m, images: m(images))
        return F.cross_entropy(outputs, test.labels[:tested]).item()


class SmallText(Text):
    """Foretell the next byte, with a GPT of three thin layers."""

    training: Mapping[str, Any] = {**Text.training, "steps": 300}
    tuning: Mapping[str, Any] = {**Text.tuning, "steps": 80}

    def __init__(self, quick: bool = False) -> None:
        super().__init__(quick)
        self.name = "small-gpt"

    def fresh(self) -> nn.Module:
        return gpt(dim=64, depth=3, heads=4, kv_heads=2, mlp_dim=172, context=CONTEXT)
