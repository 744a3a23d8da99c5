"""ImageNet: prune a network of torchvision by a budget of MACs, repair it, train it with its dense self as teacher.

The folder has ``train`` and ``val``, and in each a folder of pictures for every class. From the repository root:

    python recipes/imagenet.py /data/imagenet --network resnet50 --macs 0.5 -o slim-resnet50
    accelerate launch recipes/imagenet.py /data/imagenet ...      (several GPUs)

``--weights`` is a file with the dense network's state (safetensors, or what torch.save wrote); without it torchvision's
published weights are used. A run that was interrupted goes on when it is started again in the same way.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset
from torchvision import models, transforms
from torchvision.datasets import ImageFolder

import graphprune

STANDARD = transforms.Compose(
    [transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
)


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with train/ and val/")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the slim network and checkpoints")
    parser.add_argument("--network", default="resnet50", help="its name in torchvision.models (default: resnet50)")
    parser.add_argument("--weights", type=Path, help="the dense network's state (default: torchvision's)")
    parser.add_argument("--macs", type=float, default=0.5, help="fraction of the MACs that is left (default: 0.5)")
    parser.add_argument("--importance", default="l2", help="a criterion that needs no labels (default: l2)")
    parser.add_argument("--samples", type=int, default=512, help="unlabeled ones, for repair (default: 512)")
    parser.add_argument("--epochs", type=int, default=30, help="of training the slim network (default: 30)")
    parser.add_argument("--lr", type=float, default=0.02, help="highest learning rate (default: 0.02)")
    parser.add_argument("--size", type=int, default=224, help="of the pictures (default: 224)")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--workers", type=int, default=8, help="processes that read pictures (default: 8)")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    return parser.parse_args(arguments)


def loaders(given: argparse.Namespace) -> tuple[int, DataLoader, DataLoader, DataLoader]:
    """The number of classes, and batches to train with, to test with, and to calibrate with.

    Raises:
        SystemExit: the folder has no train/ or val/.
    """
    missing = [name for name in ("train", "val") if not (given.data / name).is_dir()]
    if missing:
        raise SystemExit(f"{given.data}: has no {' and no '.join(missing)}; each holds a folder of pictures per class")
    augmented = transforms.Compose(
        [transforms.RandomResizedCrop(given.size), transforms.RandomHorizontalFlip(), STANDARD]
    )
    plain = transforms.Compose([transforms.Resize(given.size * 8 // 7), transforms.CenterCrop(given.size), STANDARD])
    more: dict[str, Any] = {"batch_size": given.batch_size, "num_workers": given.workers}
    train, seen = (ImageFolder(given.data / "train", transform) for transform in (augmented, plain))
    chosen = torch.randperm(len(seen), generator=torch.Generator().manual_seed(0))[: given.samples]
    return (
        len(train.classes),
        DataLoader(train, shuffle=True, drop_last=True, generator=torch.Generator(), **more),
        DataLoader(ImageFolder(given.data / "val", plain), **more),
        DataLoader(Subset(seen, chosen.tolist()), **more),
    )


def dense_network(given: argparse.Namespace, classes: int) -> nn.Module:
    """As published, or with the weights of a file, which then has as many classes as the folder."""
    if given.weights is None:
        return models.get_model(given.network, weights="DEFAULT")
    model = models.get_model(given.network, weights=None, num_classes=classes)
    read = load_file if given.weights.suffix == ".safetensors" else _torch_load
    model.load_state_dict(read(given.weights))
    return model


def _torch_load(file: Path) -> dict[str, Tensor]:
    return torch.load(file, map_location="cpu", weights_only=True)


def accuracy(model: nn.Module, batches: DataLoader) -> float:
    """The fraction of pictures whose class the model finds."""
    device = next(model.parameters()).device
    right = [(model(images.to(device)).argmax(1).cpu() == labels).float() for images, labels in batches]
    return torch.cat(right).mean().item()


def main(arguments: list[str] | None = None) -> None:
    given = options(arguments)
    classes, train, test, calibration = loaders(given)
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    dense = dense_network(given, classes).to(accelerator.device).eval()
    image = torch.zeros(1, 3, given.size, given.size, device=accelerator.device)
    slim = graphprune.prune_model(
        dense,
        example_inputs=image,
        macs=given.macs,
        importance=given.importance,
        calibration=[images for images, _ in calibration],
    )
    graphprune.finetune(
        slim,
        train,
        epochs=given.epochs,
        lr=given.lr,
        weight_decay=1e-4,
        warmup=min(500, len(train) * given.epochs // 10),
        loss_fn=lambda output, target: F.cross_entropy(output, target, label_smoothing=0.1),
        teacher=dense,
        distill=graphprune.Distillation(temperature=2.0, alpha=0.5),
        precision=given.precision,
        evaluate=lambda model: accuracy(model, test),
        checkpoint=given.output / "training",
        accelerator=accelerator,
    )
    if accelerator.is_main_process:
        _report(dense, slim, image, test)
        graphprune.save(slim, given.output / "slim")


@torch.no_grad()
def _report(dense: nn.Module, slim: nn.Module, image: Tensor, test: DataLoader) -> None:
    for name, model in (("dense", dense), ("slim", slim)):
        print(f"{name}: {graphprune.trace(model, image).cost()}, accuracy {accuracy(model.eval(), test):.2%}")


if __name__ == "__main__":
    main()
