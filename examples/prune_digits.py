"""Prune half the channels of a ResNet-20 that reads handwritten digits, and train the slim network again.

Run from the repository root: python examples/prune_digits.py [--full] (needs scikit-learn). As it is, it trains for
three epochs, ten seconds on one core; with --full for eight.
"""

import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))  # `models` belongs to the repository, not to the package

import graphprune
from models.resnet_cifar import resnet20


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """1347 training and 450 test images [n, 1, 8, 8] of values in [-1, 1], and their labels [n]."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    parts = train_test_split(images, torch.tensor(data.target), stratify=data.target, random_state=0)
    return parts[0], parts[2], parts[1], parts[3]


def train(model: nn.Module, images: Tensor, labels: Tensor, epochs: int, lr: float) -> None:
    """SGD with momentum in batches of 64 images, with one cycle of learning rates up to `lr`."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * (len(images) // 64))
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images))[: len(images) // 64 * 64].split(64):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def row(name: str, model: nn.Module, images: Tensor, labels: Tensor) -> str:
    correct = (model.eval()(images).argmax(1) == labels).float().mean()
    return f"{name:<12}{sum(p.numel() for p in model.parameters()):>10,}{correct:>10.1%}"


torch.manual_seed(0)
epochs = 8 if "--full" in sys.argv[1:] else 3
train_images, train_labels, test_images, test_labels = digits()
dense = resnet20(in_channels=1)
train(dense, train_images, train_labels, epochs=epochs, lr=0.1)
print(f"{'network':<12}{'parameters':>10}{'accuracy':>10}")
print(row("dense", dense, test_images, test_labels))
slim = graphprune.prune_model(dense, 0.5, example_inputs=test_images[:1])
print(row("pruned", slim, test_images, test_labels))
train(slim, train_images, train_labels, epochs=epochs, lr=0.05)
print(row("retrained", slim, test_images, test_labels))
