"""Write files and folders whole: a reader sees the old one or the new one, whatever happens meanwhile."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from msgspec import Struct, structs
from safetensors import SafetensorError

from graphprune.errors import InputError, LoadError, SaveError
from graphprune.utils.checks import found_value, shown
from graphprune.utils.typed_json import Count, convert_data, read_json


def check_path(name: str, value: object) -> Path:
    """The path of a file or folder that an argument gives.

    Raises:
        InputError: it is none.
    """
    if not isinstance(value, str | os.PathLike) or os.fspath(value) in ("", b"") or "\0" in os.fsdecode(value):
        needed = "a path, a string or a pathlib.Path"
        raise InputError(
            f"{name}: must be {needed}, but is {shown(value)}",
            found=found_value(value),
            needed=needed,
            do=f"pass {name}='folder/name'",
        )
    return Path(os.fsdecode(value))


def make_folder(name: str, folder: Path) -> None:
    """Make a folder that something is to be written into, where it is missing; ``name``: of the argument.

    Raises:
        InputError: it cannot be made, or not be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"{folder} may not be written to")
    except OSError as error:
        raise InputError(
            f"{name}: nothing can be written into {folder} ({error.strerror or error})",
            where=str(folder),
            found=str(error),
            needed="a folder that can be made, and written to",
            do="give a path in a folder of your own",
        ) from error


def check_no_file(name: str, folder: Path) -> None:
    """Raise an InputError if there is something else in the place of a folder."""
    if folder.exists() and not folder.is_dir():
        raise InputError(
            f"{name}: {folder} is a file",
            where=str(folder),
            found="a file",
            needed="a folder, or a path at which there is nothing",
            do="give another path",
        )


_SPACE, _RIGHTS = "free some space, and call again", "let this process write there, or pass another path"

_REFUSALS = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: "pass a path on a file system that holds files of this size",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: _RIGHTS,
}
"""What to do where the system does not let a file be written."""


@contextmanager
def writing(name: str, path: Path, note: str = "", size: int = 0) -> Iterator[None]:
    """Where files are written, say what the system refuses, and what to do.

    Args:
        name: of the argument that gives the path.
        path: of the file or folder that is written.
        note: what else the message says, of what has become of the files.
        size: of the file, in bytes; 0: it is small, or not known.

    Raises:
        SaveError: the disk is full, or nothing may be written there.
    """
    try:
        yield
    except OSError as error:
        if isinstance(error, SaveError) or error.errno not in _REFUSALS:
            raise
        refused = SaveError(
            f"{name}: {path} could not be written: {error.strerror}",
            where=str(path),
            found=str(error),
            needed=f"{size:,} bytes of space for this file" if size else "space, and the right to write there",
            do=f"{_REFUSALS[error.errno]}{note}",
        )
        refused.errno = error.errno
        raise refused from error


def replace_file(path: Path, write: Callable[[Path], object], name: str = "path", note: str = "") -> None:
    """Write beside ``path`` and move into place, so that a reader sees the old file or the new one.

    It has the permissions of any new file, whatever ``write`` gives it. ``name`` and ``note`` are for :func:`writing`.

    Raises:
        SaveError: the disk is full, or nothing may be written there.
    """
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    with writing(name, path, note):
        try:
            temporary.touch(exist_ok=False)
            mode = temporary.stat().st_mode
            write(temporary)
            temporary.chmod(mode)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing_tensors(path: Path) -> Iterator[None]:
    """Where safetensors writes a file, what the system says of it is an OSError."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        raise (OSError(int(number[1]), str(error), str(path)) if number else OSError(f"{path}: {error}")) from error


CHECKSUMS = "checksums.json"


_VERSION = "version-{number:08d}"


_VERSIONS = re.compile(r"version-[0-9]{8,}")


_WRITING = ".writing-"


_CHUNK = 1 << 22


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
            if not leftover and not (_is_version(path) and (path / self.marker).is_file()):
                raise InputError(
                    f"directory: {self.folder} holds {path.name!r}, which is not part of {self.what}; nothing was "
                    "changed",
                    where=str(path),
                    found=f"{'a folder' if path.is_dir() else 'a file'} that is not part of {self.what}",
                    needed=f"a folder that is missing or empty, or that holds {self.what} alone",
                    do="pass a new or empty folder",
                )

    def write(self, write: Callable[[Path], None]) -> Path:
        """Let ``write`` fill a new folder; only when it is complete, and on disk, does it take the place of the last.

        At every moment there is either the old version or the new one, or both: the latest counts. Files have the
        permissions of any new file. What a killed process left is removed.

        Raises:
            InputError: there are versions of something else.
            SaveError: the disk is full, or nothing may be written there.
        """
        make_folder("directory", self.folder)
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
        with writing("directory", self.folder):
            return self._replace(old, write)

    def _replace(self, old: list[Path], write: Callable[[Path], None]) -> Path:
        """Write a version, and remove the old ones."""
        temporary = self.folder / f"{_WRITING}{uuid.uuid4().hex}"
        try:
            temporary.mkdir()
            write(temporary)
            finish_folder(temporary)
            final = self.folder / _VERSION.format(number=max(map(_number, old), default=-1) + 1)
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
            shutil.rmtree(path)

    def latest(self) -> Path | None:
        """The last version that was written whole, if there is one."""
        return max(self._all(), key=_number, default=None)

    def _all(self) -> list[Path]:
        return [path for path in self.folder.glob("version-*") if _is_version(path)]


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
            f"directory: {path} is no plain file",
            where=str(path),
            found="a link, a folder or a device",
            needed=f"a plain file of {known.bytes} bytes, as it was written",
            do=ADVICE,
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


ADVICE = "restore the folder from a copy, or delete it to start again"


_LONGEST_SUMS = 1 << 24


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


def to_disk(path: Path) -> None:
    """Wait until a file, or the entries of a folder, would survive a loss of power."""
    if os.name != "posix" and path.is_dir():  # Windows cannot open folders, and orders their entries itself
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a new folder beside ``folder``, and move it there when it is complete.

    Raises:
        InputError: there is something that this function did not write.
        SaveError: the disk is full, or nothing may be written there.
    """
    _check_own(folder)
    make_folder("directory", folder.parent)
    temporary = folder.parent / f".{folder.name}{_WRITING}{uuid.uuid4().hex}"
    old = temporary.with_name(f"{temporary.name}.old")
    with writing("directory", folder):
        try:
            temporary.mkdir()
            write(temporary)
            finish_folder(temporary)
            if folder.exists():
                folder.rename(old)
            temporary.rename(folder)
            to_disk(folder.parent)
        finally:
            for path in (temporary, old):
                if path.exists():
                    shutil.rmtree(path)


def _check_own(folder: Path) -> None:
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
