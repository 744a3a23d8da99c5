"""Write files past the system's cache, where there is such a way.

What is larger than memory would push everything else out of the cache, and new pages for it take longer than the disk.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
from pathlib import Path

BLOCK = 1 << 23
"""Bytes of one write. It begins in memory and in the file where the disk's own blocks do."""


class DirectFile:
    """A new file that is written from its beginning to its end.

    Raises:
        OSError: as of a file that ``open`` gives, here and in all methods.
    """

    def __init__(self, path: Path) -> None:
        self._handle, self._direct = _opened(path)
        self._block = memoryview(mmap.mmap(-1, BLOCK))
        self._used = 0

    def write(self, part: memoryview) -> None:
        """Add bytes; the last of them may wait until :meth:`finish`."""
        while part:
            count = min(len(part), BLOCK - self._used)
            self._block[self._used : self._used + count] = part[:count]
            self._used += count
            part = part[count:]
            if self._used == BLOCK:
                self._write_block()

    def finish(self) -> None:
        """Write what waits, which may be less than a block of the disk."""
        self._use_cache()
        self._write_block()

    def close(self) -> None:
        """Close the file, finished or not."""
        os.close(self._handle)

    def _write_block(self) -> None:
        left = self._block[: self._used]
        while left:
            try:
                left = left[os.write(self._handle, left) :]
            except OSError as error:
                if error.errno != errno.EINVAL or not self._direct:
                    raise
                self._use_cache()  # some file systems allow this only when they are asked to write
        self._used = 0

    def _use_cache(self) -> None:
        if self._direct:
            _clear_direct(self._handle)
            self._direct = False


if sys.platform == "linux":
    import fcntl

    def _opened(path: Path) -> tuple[int, bool]:
        try:
            return os.open(path, _FLAGS | os.O_DIRECT, _MODE), True
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        return os.open(path, _FLAGS, _MODE), False

    def _clear_direct(handle: int) -> None:
        fcntl.fcntl(handle, fcntl.F_SETFL, fcntl.fcntl(handle, fcntl.F_GETFL) & ~os.O_DIRECT)

else:

    def _opened(path: Path) -> tuple[int, bool]:
        return os.open(path, _FLAGS, _MODE), False

    def _clear_direct(handle: int) -> None:
        pass


_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0)
_MODE = 0o666
