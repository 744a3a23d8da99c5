"""Folders that are replaced: at every moment there is the old one or the new one, whole."""

import sys
from pathlib import Path

import pytest

from graphprune.utils import folders
from graphprune.utils.files import exchange_folders


def write(folder: Path, text: str) -> None:
    folders.replace_folder(folder, lambda new: (new / "file").write_text(text))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "folder", "old")
    return tmp_path / "folder"


def refuse(*_: object) -> bool:
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="the call is one of Linux")
def test_a_folder_takes_the_place_of_another_without_a_moment_in_which_there_is_none(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def renamed(*_: object) -> None:
        pytest.fail("there was no folder for a moment")

    monkeypatch.setattr(Path, "rename", renamed)
    write(folder, "new")
    assert (folder / "file").read_text() == "new"
    assert list(folder.parent.iterdir()) == [folder]


def test_a_folder_is_replaced_where_the_system_cannot_exchange(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "exchange_folders", refuse)
    write(folder, "new")
    assert (folder / "file").read_text() == "new"
    assert list(folder.parent.iterdir()) == [folder]


def test_an_interrupt_between_two_renames_leaves_the_old_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "exchange_folders", refuse)
    rename = Path.rename

    def interrupted(path: Path, target: Path) -> None:
        rename(path, target)
        if path == folder:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(folder, "new")
    assert (folder / "file").read_text() == "old"
    assert list(folder.parent.iterdir()) == [folder]


def test_folders_that_are_not_both_there_are_not_exchanged(folder: Path) -> None:
    assert not exchange_folders(folder, folder.with_name("missing"))
    assert (folder / "file").read_text() == "old"
