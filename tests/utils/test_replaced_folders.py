"""Folders that are replaced: at every moment there is the old one or the new one, whole."""

import sys
from pathlib import Path

import pytest

from graphprune.errors import InputError
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


def test_a_link_to_a_folder_stays_and_leads_to_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for text in ("first", "second"):
        write(tmp_path / "link", text)
        assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "file").read_text() == text
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == ["link", "real"]


def test_the_working_directory_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="this process works in"):
        write(Path(), "new")
    assert not list(tmp_path.iterdir())
