"""Write files and folders whole: a reader sees the old one or the new one, whatever happens meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
import zlib
from collections.abc import Callable
from pathlib import Path

from graphprune.errors import InputError, LoadError
from graphprune.utils.checks import shown
from graphprune.utils.typed_json import convert_data, read_json


def check_path(name: str, value: object) -> Path:
    """The path of a file or folder that an argument gives.

    Raises:
        InputError: it is none.
    """
    if not isinstance(value, str | os.PathLike):
        raise InputError(f"{name}: must be a path, a string or a pathlib.Path, but is {shown(value)}")
    return Path(os.fsdecode(value))


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside ``path`` and move into place, so that a reader sees the old file or the new one."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


CHECKSUMS = "checksums.json"


_VERSION = "version-{number:08d}"


_WRITING = ".writing-"


_CHUNK = 1 << 22


def write_version(folder: Path, write: Callable[[Path], None]) -> Path:
    """Let ``write`` fill a new folder; only when it is complete, and on disk, does it take the place of the last one.

    At every moment there is either the old version or the new one, or both: the latest counts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    number = max((_version_number(path) for path in _versions(folder)), default=-1) + 1
    temporary = folder / f"{_WRITING}{uuid.uuid4().hex}"
    temporary.mkdir()
    try:
        write(temporary)
        sums = {path.name: _checksum(path) for path in sorted(temporary.iterdir())}
        (temporary / CHECKSUMS).write_text(json.dumps(sums))
        for path in (*temporary.iterdir(), temporary):
            _to_disk(path)
        final = folder / _VERSION.format(number=number)
        temporary.rename(final)
        _to_disk(folder)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)
    for path in (*_versions(folder), *folder.glob(f"{_WRITING}*")):
        if path != final:
            shutil.rmtree(path)
    return final


def latest_version(folder: Path) -> Path | None:
    """The last version that was written whole, if there is one."""
    return max(_versions(folder), key=_version_number, default=None)


def check_version(version: Path) -> None:
    """Raise a LoadError unless every file has the bytes that were written."""
    what = f"directory: {version} is incomplete"
    sums = convert_data(read_json(version / CHECKSUMS, what, ADVICE), dict[str, int], what, ADVICE)
    try:
        damaged = [name for name, known in sums.items() if _checksum(version / name) != known]
    except (OSError, ValueError) as error:
        raise LoadError(f"{what} ({error}); {ADVICE}") from error
    if damaged:
        raise LoadError(f"directory: {version / damaged[0]} is damaged: its checksum differs; {ADVICE}")


ADVICE = "restore the folder from a copy, or delete it to start again"


def _versions(folder: Path) -> list[Path]:
    return [path for path in folder.glob("version-*") if path.name.removeprefix("version-").isdigit()]


def _version_number(path: Path) -> int:
    return int(path.name.removeprefix("version-"))


def _checksum(path: Path) -> int:
    """CRC-32 of a file's bytes."""
    found = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found = zlib.crc32(chunk, found)
    return found


def _to_disk(path: Path) -> None:
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
    """
    _check_own(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".{folder.name}{_WRITING}{uuid.uuid4().hex}"
    temporary.mkdir()
    try:
        write(temporary)
        sums = {path.name: _checksum(path) for path in sorted(temporary.iterdir())}
        (temporary / CHECKSUMS).write_text(json.dumps(sums))
        mode = (temporary / CHECKSUMS).stat().st_mode  # some writers make files that only their owner can read
        for path in temporary.iterdir():
            path.chmod(mode)
        for path in (*temporary.iterdir(), temporary):
            _to_disk(path)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
        _to_disk(folder.parent)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)


def _check_own(folder: Path) -> None:
    """Raise an InputError unless a folder is missing, empty, or as :func:`replace_folder` left it."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    advice = "give another folder, or delete it first"
    if not (folder / CHECKSUMS).is_file():
        raise InputError(f"directory: {folder} holds what graphprune did not write; {advice}")
    try:
        check_version(folder)
    except LoadError as error:
        raise InputError(f"directory: {folder} was changed since graphprune wrote it ({error}); {advice}") from error
    names = json.loads((folder / CHECKSUMS).read_text()).keys() | {CHECKSUMS}
    for path in folder.iterdir():
        if path.name not in names:
            raise InputError(f"directory: {path} is nothing that graphprune wrote; {advice}")
