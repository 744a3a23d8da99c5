"""The recipes run as they are, on folders of a few small pictures."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import graphprune

RECIPES = Path(__file__).parents[1] / "recipes"


def recipe(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", RECIPES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look it up there
    spec.loader.exec_module(module)
    return module


# ---------------------------------------------------------------- CIFAR-10


@pytest.fixture
def cifar(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for name, count in (("data_batch_1", 8), ("data_batch_2", 8), ("test_batch", 8)):
        records = random.integers(0, 256, (count, 3073), dtype=np.uint8)
        records[:, 0] = np.arange(count)
        (tmp_path / f"{name}.bin").write_bytes(records.tobytes())
    return tmp_path


def test_cifar_records_are_read_as_the_format_says(tmp_path: Path) -> None:
    record = bytes([7]) + bytes([255]) + bytes(1023) + bytes(2048)
    (tmp_path / "test_batch.bin").write_bytes(record)
    images, labels = recipe("cifar10").load(tmp_path, "test_batch.bin")
    assert labels.tolist() == [7]
    assert images[0, 0, 0, 0] == pytest.approx((1 - 0.4914) / 0.2470)
    assert images[0, 2, 31, 31] == pytest.approx(-0.4465 / 0.2616)


def test_cifar_is_pruned_and_saved(cifar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main, output = recipe("cifar10").main, tmp_path / "out"
    given = "--network resnet20 --epochs 1 --rounds 1 --tune-epochs 1 --batch-size 8 --device cpu --lr 0.01".split()
    main([str(cifar), "-o", str(output), *given])
    assert "macs 0.5" in capsys.readouterr().out
    dense = recipe("cifar10").NETWORKS["resnet20"]()
    image = torch.zeros(1, 3, 32, 32)
    slim = graphprune.load(output / "slim", model=dense)
    assert graphprune.trace(slim, image).cost().macs <= graphprune.trace(dense, image).cost().macs / 2


def test_a_folder_without_cifar_is_explained(tmp_path: Path) -> None:
    load = recipe("cifar10").load
    with pytest.raises(SystemExit, match=r"unpack cifar-10-binary\.tar\.gz"):
        load(tmp_path, "data_batch_*.bin")
    (tmp_path / "data_batch_1.bin").write_bytes(b"123")
    with pytest.raises(SystemExit, match="not whole records of 3073 bytes"):
        load(tmp_path, "data_batch_*.bin")


# ---------------------------------------------------------------- ImageNet


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    image = pytest.importorskip("PIL.Image")
    random = np.random.default_rng(0)
    for part in ("train", "val"):
        for label in ("cat", "dog"):
            folder = tmp_path / part / label
            folder.mkdir(parents=True)
            for number in range(2):
                image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    return tmp_path


def test_imagenet_is_pruned_repaired_trained_and_saved(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("accelerate")
    models = pytest.importorskip("torchvision.models")
    dense, output = models.squeezenet1_1(num_classes=2), tmp_path / "out"
    save_file(dense.state_dict(), tmp_path / "dense.safetensors")
    given = "--network squeezenet1_1 --epochs 1 --batch-size 4 --size 32 --workers 0 --samples 4".split()
    recipe("imagenet").main(
        [str(pictures), "-o", str(output), "--weights", str(tmp_path / "dense.safetensors"), *given]
    )
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in printed] == ["dense", "slim"]
    slim = graphprune.load(output / "slim", model=models.squeezenet1_1(num_classes=2))
    image = torch.zeros(1, 3, 32, 32)
    assert graphprune.trace(slim, image).cost().macs <= graphprune.trace(dense, image).cost().macs / 2


def test_a_folder_without_pictures_is_explained(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    pytest.importorskip("torchvision")
    (tmp_path / "train").mkdir()
    with pytest.raises(SystemExit, match=r"has no val; each holds a folder of pictures per class"):
        recipe("imagenet").main([str(tmp_path), "-o", str(tmp_path / "out")])
