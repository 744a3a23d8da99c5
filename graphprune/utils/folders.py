"""Write folders whole, with checksums of their files, by which a reader finds out what was damaged since."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from msgspec import Struct, structs

from graphprune.errors import InputError, LoadError
from graphprune.utils.files import (
    check_links,
    delete_folder,
    exchange_folders,
    make_folder,
    to_disk,
    unused_path,
    writing,
)
from graphprune.utils.folder_locks import only_writer
from graphprune.utils.typed_json import Count, convert_data, read_json

CHECKSUMS = "checksums.json"
ADVICE = "restore the folder from a copy, or delete it to start again"

_VERSION = "version-{number:08d}"
_VERSIONS = re.compile(r"version-[0-9]{8,}")
_WRITING = ".writing-"
_CHUNK = 1 << 22
_LONGEST_SUMS = 1 << 24


@dataclass(frozen=True)
class Versions:
    """A folder in which something is written again and again, each time whole, as a folder of its own.

    Args:
        folder: holds the versions, and nothing else that is written here.
        marker: a file that every version has, by which those of something else are told apart.
        what: names the argument and what is written, in messages.
    """

    folder: Path
    marker: str
    what: str

    def check_own(self) -> None:
        """Raise an InputError if the folder holds anything that was not written here."""
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise InputError(
                f"directory: {self.folder} is a file",
                where=str(self.folder),
                found="a file",
                needed=f"a folder for {self.what}",
                do="pass a new or empty folder",
            )
        for path in sorted(self.folder.iterdir()):
            leftover = path.name.startswith(_WRITING) and path.is_dir()
            known = leftover or (_is_version(path) and (path / self.marker).is_file())
            if not known and os.path.lexists(path):  # another writer may have removed it meanwhile
                raise InputError(
                    f"directory: {self.folder} holds {path.name!r}, which is not part of {self.what}; nothing was "
                    "changed",
                    where=str(path),
                    found=f"{_found_at(path)} that is not part of {self.what}",
                    needed=f"a folder that is missing or empty, or that holds {self.what} alone",
                    do="pass a new or empty folder",
                )

    def write(self, write: Callable[[Path], None]) -> Path:
        """Let ``write`` fill a new folder; only when it is complete, and on disk, does it take the place of the last.

        At every moment there is either the old version or the new one, or both: the latest counts. Files have the
        permissions of any new file. What a killed process left is removed.

        Raises:
            InputError: there are versions of something else.
            SaveError: the disk is full, nothing may be written there, or another process or thread writes there.
        """
        make_folder("directory", self.folder)
        with writing("directory", self.folder), only_writer("directory", self.folder):
            return self._write(write)

    def _write(self, write: Callable[[Path], None]) -> Path:
        old = self._all()
        for path in old:
            if not (path / self.marker).is_file():
                raise InputError(
                    f"directory: {path} is not of {self.what}; nothing was changed",
                    where=str(path),
                    found=f"a folder without the file {self.marker}",
                    needed=f"a folder that is missing or empty, or that holds {self.what} alone",
                    do="pass another folder",
                )
        return self._replace(old, write)

    def _replace(self, old: list[Path], write: Callable[[Path], None]) -> Path:
        """Write a version, and remove the old ones."""
        temporary = self.folder / f"{_WRITING}{uuid.uuid4().hex}"
        try:
            temporary.mkdir()
            write(temporary)
            finish_folder(temporary)
            final = self.folder / _VERSION.format(number=self._next())
            temporary.rename(final)
            to_disk(self.folder)
            for path in old:  # renamed first, so that what is called a version is whole whenever this is interrupted
                path.rename(self.folder / f"{_WRITING}{uuid.uuid4().hex}")
        finally:
            self._remove_leftovers()
        return final

    def _remove_leftovers(self) -> None:
        """Remove what is no version; where a signal arrives meanwhile, it is raised afterwards."""
        try:
            self._remove_once()
        except BaseException:
            self._remove_once()
            raise

    def _remove_once(self) -> None:
        for path in self.folder.glob(f"{_WRITING}*"):
            delete_folder(path)

    def latest(self) -> Path | None:
        """The last version that was written whole, if there is one."""
        return max(self._all(), key=_number, default=None)

    def hold_own(self) -> bool:
        """Is the last version of what is kept here, and not of something else?"""
        version = self.latest()
        return version is not None and (version / self.marker).is_file()

    def _next(self) -> int:
        """The number of a version of which there is none, nor a link in its place."""
        taken = [path for path in self.folder.glob("version-*") if _VERSIONS.fullmatch(path.name)]
        return max(map(_number, taken), default=-1) + 1

    def _all(self) -> list[Path]:
        return [path for path in self.folder.glob("version-*") if _is_version(path)]


def found_instead(folder: Path) -> str:
    """What is there in place of a folder with versions, in words."""
    if folder.is_dir():
        links = [path for path in folder.glob("version-*") if path.is_symlink()]
        return f"{_found_at(links[0])} in the place of {links[0].name}" if links else "a folder without a version"
    return _found_at(folder) if os.path.lexists(folder) else "no such folder"


def _found_at(path: Path) -> str:
    """What is at a path, in words."""
    if path.is_symlink():
        return f"a {'' if os.path.exists(path) else 'broken '}symbolic link to {os.readlink(path)}"
    if path.is_dir():
        return "a folder"
    return "a file" if path.is_file() else "a device" if path.exists() else "nothing"


class FileSum(Struct, frozen=True, forbid_unknown_fields=True):
    """What a file must be."""

    bytes: Count
    sha256: str


def finish_folder(folder: Path, known: Mapping[str, FileSum] | None = None) -> None:
    """Add checksums, set permissions, and wait until everything is on disk; ``known``: sums that need not be made."""
    files = sorted(path for path in folder.iterdir() if path.name != CHECKSUMS)
    sums = {path.name: (known or {}).get(path.name) or file_sum(path) for path in files}
    (folder / CHECKSUMS).write_text(json.dumps({name: structs.asdict(one) for name, one in sums.items()}, indent=1))
    mode = folder.stat().st_mode & 0o666
    for path in files:
        path.chmod(mode)
    for path in (*files, folder / CHECKSUMS, folder):
        to_disk(path)


def file_sum(path: Path) -> FileSum:
    """What a file is now."""
    return FileSum(path.stat().st_size, _checksum(path))


def check_version(version: Path) -> dict[str, Path]:
    """The files of a version, by name.

    Raises:
        LoadError: one of them does not have the bytes that were written, or is not a plain file of the folder.
    """
    what = f"directory: {version} is incomplete"
    data = read_json(version / CHECKSUMS, what, ADVICE, _LONGEST_SUMS)
    sums = convert_data(data, dict[str, FileSum], what, ADVICE)
    found = {}
    for name, known in sums.items():
        path = version / name
        if Path(name).name != name or name in ("", "..") or "\0" in name:
            raise LoadError(
                f"{what}: {name!r} is no name of a file in it",
                where=str(version / CHECKSUMS),
                found=f"the name {name!r}",
                needed="names of files that stand in the folder itself",
                do=ADVICE,
            )
        if not os.path.lexists(path):
            raise LoadError(
                f"{what}: {name!r} is missing",
                where=str(path),
                found="no such file",
                needed=f"a file of {known.bytes} bytes, as it was written",
                do=f"copy {name} there, or {ADVICE}",
            )
        try:
            _check_file(path, known)
        except OSError as error:
            raise LoadError(
                f"{what} ({error})",
                where=str(path),
                found=str(error),
                needed=f"a file of {known.bytes} bytes, as it was written",
                do=ADVICE,
            ) from error
        found[name] = path
    return found


def _check_file(path: Path, known: FileSum) -> None:
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise LoadError(
            f"directory: {path} is no plain file, but {_found_at(path)}",
            where=str(path),
            found=_found_at(path),
            needed=f"a plain file of {known.bytes} bytes, as it was written",
            do="put the file itself there; copy folders with their files, as 'cp -rL' does",
        )
    if found.st_size != known.bytes:
        raise LoadError(
            f"directory: {path} is damaged: it has {found.st_size} bytes, written were {known.bytes}",
            where=str(path),
            found=f"{found.st_size} bytes",
            needed=f"the {known.bytes} bytes that were written",
            do=ADVICE,
        )
    if _checksum(path) != known.sha256:
        raise LoadError(
            f"directory: {path} is damaged: its checksum differs",
            where=str(path),
            found="other bytes than those whose SHA-256 was noted",
            needed=f"the bytes with the SHA-256 {known.sha256[:80]}",
            do=ADVICE,
        )


def _is_version(path: Path) -> bool:
    return _VERSIONS.fullmatch(path.name) is not None and path.is_dir() and not path.is_symlink()


def _number(version: Path) -> int:
    return int(version.name.removeprefix("version-"))


def _checksum(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()


def replace_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a new folder beside ``folder``, and move it there when it is complete.

    On Linux they change places in one step. Elsewhere a process that is killed between two renames leaves the folder
    that was there before beside its place, under a name that ends in ``.old``.

    Raises:
        InputError: there is something that this function did not write, or the process works in there.
        SaveError: the disk is full, or nothing may be written there.
    """
    folder = Path(os.path.realpath(folder))  # a link stays, and leads to the new one
    check_links("directory", folder)  # such as one that leads to itself
    check_own_folder(folder)
    if Path.cwd().is_relative_to(folder):
        raise InputError(
            f"directory: {folder} is the folder that this process works in, which cannot be replaced",
            where=str(folder),
            found=f"the working directory {Path.cwd()}",
            needed="another folder, such as one within it",
            do="give the path of a folder that does not exist yet",
        )
    make_folder("directory", folder.parent)
    temporary = unused_path(folder)
    old = temporary.with_name(f"{temporary.name}.old")
    with writing("directory", folder):
        try:
            temporary.mkdir()
            write(temporary)
            finish_folder(temporary)
            if not folder.exists():
                temporary.rename(folder)
            elif not exchange_folders(temporary, folder):
                folder.rename(old)
                temporary.rename(folder)
            to_disk(folder.parent)
        finally:
            if old.exists() and not folder.exists():  # stopped between the two
                old.rename(folder)
            for path in (temporary, old):
                if path.exists():
                    delete_folder(path)


def check_own_folder(folder: Path) -> None:
    """Raise an InputError unless a folder is missing, empty, or as :func:`replace_folder` left it."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    advice = "give another folder, or delete it first"
    if not (folder / CHECKSUMS).is_file():
        raise InputError(
            f"directory: {folder} holds what graphprune did not write",
            where=str(folder),
            found=f"{min(path.name for path in folder.iterdir())!r} and no {CHECKSUMS}"
            if folder.is_dir()
            else "a file",
            needed="a folder that is missing or empty, or that graphprune wrote",
            do=advice,
        )
    try:
        names = check_version(folder)
    except LoadError as error:
        raise InputError(
            f"directory: {folder} was changed since graphprune wrote it ({error.what})",
            where=error.place or str(folder),
            found=error.found,
            needed=error.needed,
            do=advice,
        ) from error
    for path in folder.iterdir():
        if path.name not in names and path.name != CHECKSUMS:
            raise InputError(
                f"directory: {path} is nothing that graphprune wrote",
                where=str(path),
                found="a file or folder that is not among the checksums",
                needed="a folder that is missing or empty, or that graphprune wrote",
                do=advice,
            )
