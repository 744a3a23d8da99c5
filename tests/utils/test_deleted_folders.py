"""Folders that are deleted: an interrupt meanwhile is raised as such, and a failure stays one."""

import errno
import os
from pathlib import Path

import pytest

from graphprune.utils.files import delete_folder, temporary_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a folder in it, as its deletion closes two file descriptors."""
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    (tmp_path / "folder" / "inner" / "file").write_text("text")
    return tmp_path / "folder"


def interrupted_after_closing(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let a signal arrive just after a file descriptor was closed, the one of this number."""
    close, left = os.close, [number]

    def closing(descriptor: int) -> None:
        close(descriptor)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "close", closing)


@pytest.mark.parametrize("number", [1, 2])
def test_an_interrupt_between_the_closing_of_a_descriptor_and_the_noting_of_it_is_raised(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    interrupted_after_closing(monkeypatch, number)
    with pytest.raises(KeyboardInterrupt):
        delete_folder(folder)


def test_a_temporary_folder_that_is_interrupted_so_says_so_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt), temporary_folder(tmp_path) as folder:  # noqa: PT012
        (folder / "file").write_text("text")
        interrupted_after_closing(monkeypatch, 1)


def test_what_the_system_refuses_is_an_error_also_after_an_interrupt(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "not allowed")

    monkeypatch.setattr(os, "unlink", refused)
    with pytest.raises(PermissionError):  # noqa: PT012
        try:
            raise KeyboardInterrupt
        finally:
            delete_folder(folder)


@pytest.mark.parametrize("fails", [False, True])
def test_a_temporary_folder_goes_with_what_is_in_it(tmp_path: Path, fails: bool) -> None:
    try:
        with temporary_folder(tmp_path, "prefix") as folder:
            (folder / "inner").mkdir()
            assert folder.parent == tmp_path
            assert folder.name.startswith(".prefix.")
            if fails:
                raise ValueError
    except ValueError:
        assert fails
    assert not list(tmp_path.iterdir())
