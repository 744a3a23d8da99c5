"""One writer at a time in a folder: another process or thread that wants to write there is refused."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from graphprune.errors import SaveError

try:
    import fcntl
except ImportError:  # on Windows, where what is open cannot be moved or deleted by others
    fcntl = None  # type: ignore[assignment]

_TAKEN = frozenset((errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST))
"""What the system says where another writer moved or deleted files meanwhile."""
_UNLOCKED = frozenset((errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL))
"""What file systems say that know no locks."""


@contextmanager
def only_writer(name: str, folder: Path) -> Iterator[None]:
    """Write in a folder while nobody else that asks for it does; the system ends it with the process.

    Args:
        name: of the argument that gives the folder.
        folder: that is there.

    Raises:
        SaveError: another process or thread writes there.
    """
    handle = os.open(folder, os.O_RDONLY) if fcntl is not None else None
    try:
        if handle is not None:
            _lock(name, folder, handle)
        yield
    except OSError as error:
        if isinstance(error, SaveError) or error.errno not in _TAKEN:
            raise
        raise _busy(name, folder, str(error)) from error
    finally:
        if handle is not None:
            os.close(handle)


def _lock(name: str, folder: Path, handle: int) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _busy(name, folder, "a folder that is locked") from error
    except OSError as error:
        if error.errno not in _UNLOCKED:
            raise


def _busy(name: str, folder: Path, found: str) -> SaveError:
    return SaveError(
        f"{name}: another process or thread writes to {folder}",
        where=str(folder),
        found=found,
        needed="one writer at a time",
        do="save again when it is done, or give each of them a folder of its own",
    )
