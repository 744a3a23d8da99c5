"""What of a run is finished, beside the folder that it makes, so that a run that was killed goes on.

The work folder has ``journal.json`` (what was asked, and the files that are whole), ``plan.json``, and ``folder``,
which takes the place of the target at the end. A file counts as finished if the journal names it and it has the bytes
that the journal says.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from msgspec import Struct, structs, to_builtins

from graphprune.errors import InputError, LoadError
from graphprune.pruning.plan import Plan
from graphprune.utils.files import delete_folder, make_folder, replace_file, to_disk, writing
from graphprune.utils.folders import FileSum, file_sum, finish_folder
from graphprune.utils.typed_json import convert_data, read_json

_JOURNAL, _PLAN, _LOCK = "journal.json", "plan.json", "lock"

_LONGEST = 1 << 26


_GOES_ON = "; the same call goes on from the last file that is whole"
"""What the messages about files that cannot be written say, too."""


class FinishedFile(Struct, frozen=True, forbid_unknown_fields=True):
    """A file that is whole.

    Attributes:
        content: names what was to be written, by a checksum; other contents make another file.
        sum: its bytes.
    """

    content: str
    sum: FileSum


class _Record(Struct, frozen=True, forbid_unknown_fields=True):
    """The contents of ``journal.json``."""

    request: dict[str, Any]
    files: dict[str, FinishedFile] = {}
    complete: bool = False


class Journal:
    """A context in which this process alone works on a target.

    Args:
        target: the folder that is made.
        request: what was asked, as JSON data.
        resume: go on with what an earlier run of the same request left; False: begin anew.

    Raises:
        InputError: the target exists, another process works on it, or an earlier run was asked for something else.
        LoadError: the journal is damaged; here and in all methods: what an earlier run left cannot be read.
        SaveError: here and in all methods: the disk is full, or nothing may be written there.
    """

    def __init__(self, target: Path, request: dict[str, Any], resume: bool) -> None:
        self._target = target
        self._work = target.parent / f".{target.name}.pruning"
        self._request = request
        self._resume = resume
        self._lock: BinaryIO | None = None
        self._record = _Record(request)
        self.folder = self._work / "folder"

    def __enter__(self) -> Journal:
        make_folder("target", self._target.parent)
        with self.writing():
            self._begin()
        return self

    def _begin(self) -> None:
        if self._is_new:
            self._check_target()
        self._work.mkdir(exist_ok=True)
        self._lock = _locked(self._work / _LOCK, self._target)
        try:
            self._open()
        except BaseException:
            self._lock.close()
            raise

    @property
    def _is_new(self) -> bool:
        """Is there no earlier run to go on with?"""
        return not self._resume or not (self._work / _JOURNAL).is_file()

    def writing(self, path: Path | None = None, size: int = 0) -> AbstractContextManager[None]:
        """Where a file of a size, or something small of the folder, is written: what the system refuses is told of."""
        return writing("target", path or self._work, _GOES_ON, size)

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def _check_target(self) -> None:
        empty = self._target.is_dir() and not any(self._target.iterdir())
        if self._target.exists() and not empty:
            raise InputError(
                f"target: {self._target} exists",
                where=str(self._target),
                found="a file" if self._target.is_file() else "a folder that is not empty",
                needed="a folder that is missing or empty",
                do="give another folder, or delete it first",
            )

    def _open(self) -> None:
        path = self._work / _JOURNAL
        if self._is_new:
            path.unlink(missing_ok=True)  # first, so that a run that is killed here leaves no journal of missing files
            self._delete(keep=_LOCK)
            self._write()
            return
        what, advice = f"target: the journal {path} of an earlier run", self._advice
        found = convert_data(read_json(path, what, advice, _LONGEST), _Record, what, advice)
        request = json.loads(json.dumps(self._request))
        for name in request.keys() | found.request.keys():
            if request.get(name) != found.request.get(name):
                raise InputError(
                    f"{name}: an earlier run for {self._target} was asked with {_shown(found.request.get(name))}, and "
                    f"this one with {_shown(request.get(name))}",
                    where=str(path),
                    found=f"{name}={_shown(request.get(name))}",
                    needed=f"{name}={_shown(found.request.get(name))}, as in the run that is to go on",
                    do=f"ask for the same to go on with it, or {self._advice}",
                )
        self._record = found
        if not found.complete:
            self._check_target()

    @property
    def _advice(self) -> str:
        return f"pass resume=False (or delete {self._work}) to begin anew"

    def _write(self) -> None:
        text = json.dumps(to_builtins(self._record), indent=1)
        self._replace(self._work / _JOURNAL, text)

    def _replace(self, path: Path, text: str) -> None:
        replace_file(path, lambda temporary: temporary.write_text(text), "target", _GOES_ON)

    # ------------------------------------------------------------ what is finished

    @property
    def complete(self) -> bool:
        """Was the whole folder finished before?"""
        return self._record.complete

    def plan(self, make: Callable[[], Plan]) -> Plan:
        """The plan of an earlier run, or a new one, which is kept."""
        path = self._work / _PLAN
        if path.is_file():
            with self._reading(path):
                text = path.read_bytes().decode(errors="replace")
            return Plan.from_json(text)
        made = make()
        self._replace(path, made.to_json())
        return made

    def finished(self, path: Path, content: str) -> bool:
        """Is a file below the work folder there, whole, with this content?"""
        known = self._record.files.get(self._name(path))
        if known is None or known.content != content or not path.is_file():
            return False
        with self._reading(path):
            return file_sum(path) == known.sum

    @contextmanager
    def _reading(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LoadError(
                f"target: {path} of an earlier run cannot be read ({error})",
                where=str(path),
                found=str(error),
                needed="the file, as that run wrote it",
                do=f"let this user read it, or {self._advice}",
            ) from error

    def note(self, path: Path, content: str, found: FileSum) -> None:
        """Keep in mind that a file below the work folder is whole."""
        files = self._record.files | {self._name(path): FinishedFile(content, found)}
        self._record = structs.replace(self._record, files=files)
        self._write()

    def _name(self, path: Path) -> str:
        return path.relative_to(self._work).as_posix()

    def path(self, name: str) -> Path:
        """A file of the work folder that is no part of the target."""
        return self._work / name

    # ------------------------------------------------------------ the target

    def replace(self, _target: Path, write: Callable[[Path], object]) -> None:
        """Let ``write`` fill the folder, and put it in the place of the target; files that are finished stay there."""
        with self.writing():
            self._fill(write)
        self.close()

    def _fill(self, write: Callable[[Path], object]) -> None:
        """Let ``write`` make the files that are not finished, and keep in mind that the folder is complete."""
        self.folder.mkdir(exist_ok=True)
        known = {name: one.sum for name, one in self._record.files.items()}
        for path in self.folder.iterdir():
            if self._name(path) not in known:
                path.unlink()
        write(self.folder)
        sums = {path.name: self._record.files.get(self._name(path)) for path in self.folder.iterdir()}
        finish_folder(self.folder, {name: one.sum for name, one in sums.items() if one is not None})
        self._record = structs.replace(self._record, complete=True)
        self._write()

    def close(self) -> None:
        """Put the finished folder in the place of the target, if it is not there yet, and delete the work folder."""
        with self.writing(self._target):
            if self.folder.exists():
                if self._target.exists():
                    self._target.rmdir()
                os.rename(self.folder, self._target)
                to_disk(self._target.parent)
            (self._work / _JOURNAL).unlink()
            self._delete()
            self._work.rmdir()

    def _delete(self, keep: str = "") -> None:
        """Delete what is in the work folder, but for one file."""
        for path in self._work.iterdir():
            if path.is_dir():
                delete_folder(path)
            elif path.name != keep:
                path.unlink()


def _locked(path: Path, target: Path) -> BinaryIO:
    """A file that this process alone has open, on systems that know such locks; a process that ends lets go of it.

    Raises:
        InputError: another process has it.
    """
    file = path.open("wb")
    if os.name == "posix":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise InputError(
                f"target: another process works on {target}",
                where=str(target),
                found="a lock of another process",
                needed="one process for each target",
                do="wait for it, or end it",
            ) from error
    return file


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


_SHOWN = 80
