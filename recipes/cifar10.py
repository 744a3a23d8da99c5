"""CIFAR-10: train a network, prune it in rounds with distillation from the dense one, save it.

The folder is ``cifar-10-batches-bin`` of https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz (the binary version;
Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009). From the repository root:

    python recipes/cifar10.py cifar-10-batches-bin --network resnet56 --macs 0.5 -o slim-resnet56

With the defaults it trains for 200 epochs and then for 3 times 40, which takes a GPU. A run that was interrupted goes
on when it is started again in the same way.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))  # `models` belongs to the repository, not to the package

import graphprune
from models.mobilenet_v2 import mobilenet_v2
from models.resnet_cifar import resnet20, resnet56

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet20": resnet20,
    "resnet56": resnet56,
    "mobilenetv2": lambda: mobilenet_v2(num_classes=10, small_input=True),
}
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
RECORD = 1 + 3 * 32 * 32
"""Bytes of an image in the files: its label, then its red, green and blue values."""
PADDING = 4


def load(folder: Path, pattern: str) -> tuple[Tensor, Tensor]:
    """Images [n, 3, 32, 32], standardized, and labels [n], of the files that match.

    Raises:
        SystemExit: there are none, or one is not of the binary version.
    """
    files = sorted(folder.glob(pattern))
    if not files:
        raise SystemExit(f"{folder}: has no {pattern}; unpack cifar-10-binary.tar.gz and pass cifar-10-batches-bin")
    content = b"".join(file.read_bytes() for file in files)
    if len(content) % RECORD:
        raise SystemExit(f"{folder}: {pattern} are not whole records of {RECORD} bytes; is it the binary version?")
    records = torch.from_numpy(np.frombuffer(content, dtype=np.uint8).reshape(-1, RECORD).copy())
    images = records[:, 1:].reshape(-1, 3, 32, 32).float() / 255
    mean, deviation = (torch.tensor(values)[:, None, None] for values in (MEAN, DEVIATION))
    return (images - mean) / deviation, records[:, 0].long()


@dataclass(frozen=True)
class Augmented:
    """Shuffled batches; every image is moved by up to four pixels and mirrored half of the time, anew each epoch."""

    images: Tensor
    labels: Tensor
    batch_size: int

    def __len__(self) -> int:
        return len(self.labels) // self.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for chosen in torch.randperm(len(self.labels))[: len(self) * self.batch_size].split(self.batch_size):
            yield cropped(self.images[chosen]), self.labels[chosen]


def cropped(images: Tensor) -> Tensor:
    """[n, 3, 32, 32] -> the same shape: a window of each padded image, and half of them mirrored."""
    n, channels, height, width = images.shape
    mirrored = torch.where(torch.rand(n, 1, 1, 1) < 0.5, images.flip(-1), images)
    padded = F.pad(mirrored, (PADDING,) * 4)
    top, left = torch.randint(2 * PADDING + 1, (2, n, 1))
    rows, columns = top + torch.arange(height), left + torch.arange(width)
    one = torch.arange(n)[:, None, None, None]
    return padded[one, torch.arange(channels)[:, None, None], rows[:, None, :, None], columns[:, None, None, :]]


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The fraction of images whose class the model finds."""
    device = next(model.parameters()).device
    found = torch.cat([model(part.to(device)).argmax(1).cpu() for part in images.split(500)])
    return (found == labels).float().mean().item()


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder cifar-10-batches-bin")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the slim network and checkpoints")
    parser.add_argument("--network", choices=NETWORKS, default="resnet56")
    parser.add_argument("--macs", type=float, default=0.5, help="fraction of the MACs that is left (default: 0.5)")
    parser.add_argument("--rounds", type=int, default=3, help="of pruning and training (default: 3)")
    parser.add_argument("--epochs", type=int, default=200, help="of training the dense network (default: 200)")
    parser.add_argument("--tune-epochs", type=int, default=40, help="of training after each round (default: 40)")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.1, help="highest learning rate (default: 0.1)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    given = options(arguments)
    images, labels = load(given.data, "data_batch_*.bin")
    test = load(given.data, "test_batch.bin")
    batches = Augmented(images, labels, given.batch_size)
    torch.manual_seed(0)
    model = NETWORKS[given.network]().to(given.device)
    graphprune.finetune(
        model, batches, epochs=given.epochs, lr=given.lr, weight_decay=5e-4, checkpoint=given.output / "dense"
    )
    found = graphprune.prune_iteratively(
        model,
        images[:1].to(given.device),
        rounds=given.rounds,
        macs=given.macs,
        calibration=list(images[torch.randperm(len(images))[:256]].split(64)),
        evaluate=lambda model: accuracy(model, *test),
        tune={
            "batches": batches,
            "epochs": given.tune_epochs,
            "lr": given.lr / 5,
            "weight_decay": 5e-4,
            "distill": graphprune.Distillation(),
        },
        checkpoint=given.output / "rounds",
    )
    print(found)
    graphprune.save(found.model, given.output / "slim")
    print(f"{given.output / 'slim'}: graphprune.load(..., model={given.network}()) gives it back")


if __name__ == "__main__":
    main()
