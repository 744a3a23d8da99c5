"""Write files whole: a reader sees the old one or the new one, whatever happens meanwhile."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from graphprune.errors import InputError, SaveError
from graphprune.utils.checks import found_value, shown

_WORKING_FOLDER, _EXCHANGE = -100, 2
"""``AT_FDCWD`` and ``RENAME_EXCHANGE`` of Linux."""


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
    path = Path(os.fsdecode(value))
    try:
        path.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise _too_long(name, path) from error
    return path


def _too_long(name: str, path: Path) -> InputError:
    length = max(map(len, path.parts))
    return InputError(
        f"{name}: the file system takes no name of {length} characters: {shown(str(path))}",
        where=shown(str(path)),
        found=f"a name of {length} characters",
        needed=_NEEDED[errno.ENAMETOOLONG],
        do=_SHORTER,
    )


def check_file_path(name: str, value: object, example: str) -> Path:
    """The path of a file to write, which is no folder; ``example``: the name of such a file, for the message.

    Raises:
        InputError: it is no path, or that of a folder.
    """
    file = check_path(name, value)
    if file.is_dir():
        raise InputError(
            f"{name}: {file} is a folder",
            where=str(file),
            found="a folder",
            needed="the path of a file",
            do=f"pass the file to write, such as {file / example}",
        )
    return file


_ENDS = 4096
"""Bytes at the beginning and at the end of a file that are looked at."""


def check_own_file(name: str, path: Path, mark: str, kind: str) -> None:
    """Raise an InputError if there is a file already of which neither beginning nor end says that graphprune wrote it.

    One that is empty, as a temporary file is, may be replaced.

    Args:
        name: of the argument that gives the path.
        path: of the file that is to be written.
        mark: a text at the beginning or the end of all files of the kind that are written here.
        kind: what the file is, for the message.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        ends = file.read(_ENDS)
        file.seek(max(path.stat().st_size - _ENDS, len(ends)))
        ends += file.read()
    if ends and mark.encode() not in ends:
        raise InputError(
            f"{name}: {path} exists and is no {kind} that graphprune wrote",
            where=str(path),
            found="a file of something else",
            needed=f"a path at which there is nothing, or an older {kind} of graphprune",
            do="give another path, or delete the file first",
        )


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
        check_links(name, folder)
        raise InputError(
            f"{name}: nothing can be written into {folder} ({error.strerror or error})",
            where=str(folder),
            found=str(error),
            needed="a folder that can be made, and written to",
            do="give a path in a folder of your own",
        ) from error


def check_links(name: str, folder: Path) -> None:
    """Raise an InputError if a folder, or one that it lies in, is a symbolic link that leads nowhere."""
    for path in (folder, *folder.parents):
        if path.is_symlink() and not os.path.exists(path):
            raise InputError(
                f"{name}: {path} is a symbolic link that leads to nothing",
                where=str(path),
                found=f"a link to {os.readlink(path)}",
                needed="a folder, or a link to one that is there",
                do="delete the link, or make the folder that it leads to",
            )


def delete_folder(folder: Path) -> None:
    """Delete a folder with all that is in it.

    Where a signal arrives between the closing of a file descriptor and the noting of it, :func:`shutil.rmtree` closes
    it again, and its failure hides the interrupt: the interrupt is raised here.

    Raises:
        OSError: something cannot be deleted.
    """
    try:
        shutil.rmtree(folder)
    except OSError as error:
        hidden = error.__context__
        while isinstance(hidden, Exception):
            hidden = hidden.__context__
        if error.errno == errno.EBADF and hidden is not None:
            raise hidden from None
        raise


def exchange_folders(first: Path, second: Path) -> bool:
    """Let two folders change places in one step; False: the system cannot do that here, and they are as they were."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):  # no Linux, or a C library without it
        return False
    code: int = rename(_WORKING_FOLDER, os.fsencode(first), _WORKING_FOLDER, os.fsencode(second), _EXCHANGE)
    return code == 0


@contextmanager
def temporary_folder(parent: Path, name: str = "") -> Iterator[Path]:
    """A new folder, for this user alone, that is deleted afterwards; hidden, if a name is given that it begins with."""
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=_hidden_prefix(name) if name else ""))
    try:
        yield folder
    finally:
        delete_folder(folder)


_LONGEST_PREFIX = 32
"""Characters, up to 128 bytes: with what follows, file systems take names of 143 bytes or more."""


def _hidden_prefix(name: str) -> str:
    """What the name of a temporary file or folder begins with, for one of this name."""
    return f".{name[:_LONGEST_PREFIX]}."


def check_no_file(name: str, folder: Path) -> None:
    """Raise an InputError if there is something else in the place of a folder, or a link that leads nowhere."""
    check_links(name, folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(
            f"{name}: {folder} is a file",
            where=str(folder),
            found="a file",
            needed="a folder, or a path at which there is nothing",
            do="give another path",
        )


_SPACE, _RIGHTS = "free some space, and call again", "let this process write there, or pass another path"
_SHORTER = "pass a shorter name"

_REFUSALS = {
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: "pass a path on a file system that holds files of this size",
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EROFS: _RIGHTS,
    errno.ENAMETOOLONG: _SHORTER,
}
"""What to do where the system does not let a file be written."""

_ALLOWED = "space, and the right to write there"

_NEEDED = {errno.ENAMETOOLONG: "a name that the file system takes"}


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
            needed=f"{size:,} bytes of space for this file" if size else _NEEDED.get(error.errno, _ALLOWED),
            do=f"{_REFUSALS[error.errno]}{note}",
        )
        refused.errno = error.errno
        raise refused from error


def unused_path(path: Path) -> Path:
    """A hidden path at which there is nothing, beside another one, whose name may be as long as names can be."""
    return path.parent / f"{_hidden_prefix(path.name)}{uuid.uuid4().hex}"


def replace_file(path: Path, write: Callable[[Path], object], name: str = "path", note: str = "") -> None:
    """Write beside ``path`` and move into place, so that a reader sees the old file or the new one.

    It has the permissions of any new file, whatever ``write`` gives it. ``name`` and ``note`` are for :func:`writing`.

    Raises:
        SaveError: the disk is full, or nothing may be written there.
    """
    temporary = unused_path(path)
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


def to_disk(path: Path) -> None:
    """Wait until a file, or the entries of a folder, would survive a loss of power."""
    if os.name != "posix" and path.is_dir():  # Windows cannot open folders, and orders their entries itself
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
