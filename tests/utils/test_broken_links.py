"""Symbolic links that lead nowhere, and files that are gone, where something is to be read or written."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

import graphprune
from graphprune.cli.weights import load_weights
from graphprune.errors import InputError, LoadError, SpecError

INPUTS = torch.zeros(2, 4)


def slim() -> nn.Module:
    return graphprune.prune_model(net(), 0.5, INPUTS)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.fixture
def version(tmp_path: Path) -> Path:
    graphprune.save(slim(), tmp_path / "saved")
    return tmp_path / "saved" / "version-00000000"


@pytest.mark.parametrize("target", ["nowhere", "link", "nowhere/deeper"])
@pytest.mark.parametrize("within", ["", "slim"])
@pytest.mark.parametrize(
    "write",
    [
        graphprune.save,
        lambda model, path: graphprune.export_source(model, path, INPUTS),
        lambda model, path: graphprune.export_loader(model, path, example_inputs=INPUTS),
    ],
)
def test_a_broken_link_is_named_where_a_folder_is_to_be_written(tmp_path, write, within, target):
    link = tmp_path / "link"
    link.symlink_to(tmp_path / target)
    with pytest.raises(InputError, match=r"link is a symbolic link that leads to nothing[\s\S]*delete the link"):
        write(slim(), link / within)
    assert os.listdir(tmp_path) == ["link"]


def test_folders_that_are_replaced_are_no_link_to_itself(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(link)
    graph = graphprune.trace(net(), INPUTS)
    with pytest.raises(InputError, match="link is a symbolic link that leads to nothing"):
        graph.to_model_explorer(link)


@pytest.mark.parametrize("name", ["model.safetensors", "bundle.json", "plan-0.json"])
def test_files_of_a_bundle_that_are_gone_or_links(version: Path, name: str) -> None:
    moved = version.parent.parent / "moved"
    (version / name).rename(moved)
    with pytest.raises(LoadError, match=rf"'{name}' is missing[\s\S]*do: +copy {name} there"):
        graphprune.load(version.parent, net())
    (version / name).symlink_to(moved)
    with pytest.raises(LoadError, match=r"no plain file, but a symbolic link to \S+moved[\s\S]*put the file itself"):
        graphprune.load(version.parent, net())
    moved.unlink()
    with pytest.raises(LoadError, match=r"no plain file, but a broken symbolic link to \S+moved"):
        graphprune.load(version.parent, net())


def test_a_broken_link_in_the_place_of_a_version(version: Path) -> None:
    version.rename(version.parent.parent / "moved")
    version.symlink_to("nowhere")
    with pytest.raises(LoadError, match=r"found: +a broken symbolic link to nowhere in the place of version-00000000"):
        graphprune.load(version.parent, net())
    with pytest.raises(InputError, match=r"found: +a broken symbolic link to nowhere that is not part of a bundle"):
        graphprune.save(slim(), version.parent)
    graphprune.save(slim(), version.parent, beside_others=True)
    assert graphprune.load(version.parent, net())(INPUTS).shape == (2, 3)
    assert version.is_symlink()


def test_weights_behind_a_broken_link(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to("nowhere")
    with pytest.raises(SpecError, match=r"model.safetensors' does not exist"):
        load_weights(net(), tmp_path)


def test_errors_are_readable_where_the_working_directory_is_gone(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(InputError) as raised:
        graphprune.save(slim(), "saved")
    assert "nothing can be written into saved" in str(raised.value)
