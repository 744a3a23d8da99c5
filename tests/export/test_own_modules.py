"""Python files are written over earlier ones of graphprune, and over nothing of the user's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphprune
from graphprune.errors import InputError
from models import resnet_cifar

IMAGE = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def source(slim: nn.Module, folder: Path) -> Path:
    return graphprune.export_source(slim, folder, IMAGE)


def loader(slim: nn.Module, folder: Path) -> Path:
    return graphprune.export_loader(slim, folder, factory=resnet_cifar.resnet20)


WRITERS: list[tuple[Callable[..., Any], str]] = [(source, "model"), (loader, "slim_model")]


@pytest.mark.parametrize(("write", "name"), WRITERS)
@pytest.mark.parametrize("suffix", [".py", ".safetensors"])
def test_files_of_the_user_stay(write: Callable[..., Any], name: str, suffix: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}{suffix}").write_text("written by graphprune? no")
    with pytest.raises(InputError, match=rf"directory: .*{name}{suffix} is there, and graphprune did not write it"):
        write(resnet_cifar.resnet20().eval(), tmp_path)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["written by graphprune? no"]


@pytest.mark.parametrize("write", [one for one, _ in WRITERS])
def test_earlier_files_are_replaced(write: Callable[..., Any], tmp_path: Path) -> None:
    slim = resnet_cifar.resnet20().eval()
    before = write(slim, tmp_path).read_text()
    smaller = graphprune.prune_model(slim, 0.5, IMAGE)
    assert write(smaller, tmp_path).read_text() != before


def test_a_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "model.py").mkdir()
    with pytest.raises(InputError, match="a folder"):
        source(resnet_cifar.resnet20().eval(), tmp_path)
