"""Files and folders whose names are as long as the file system takes are written as any others are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import graphprune
from graphprune.utils.files import replace_file, temporary_folder
from graphprune.utils.folders import replace_folder

NAMES = ["a" * 255, "\N{LATIN SMALL LETTER E WITH ACUTE}" * 127]


def write_file(path: Path) -> None:
    replace_file(path, partial(Path.write_text, data="whole"))


def write_folder(path: Path) -> None:
    replace_folder(path, lambda new: (new / "file").write_text("whole"))


@pytest.mark.parametrize("write", [write_file, write_folder])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_replaced_may_have_any_name(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    for _ in range(2):
        write(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_temporary_folders_are_hidden_beside_names_of_any_length(tmp_path: Path) -> None:
    with temporary_folder(tmp_path, "a" * 255) as folder:
        assert folder.name.startswith(".aaa")


def test_a_network_is_exported_to_a_folder_of_any_name(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval(), torch.zeros(1, 4)
    slim = graphprune.prune_model(model, 0.5, x)
    graphprune.export_source(slim, tmp_path / ("a" * 240), x)
    assert len(list(tmp_path.iterdir())) == 1
