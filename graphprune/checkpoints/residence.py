"""How much of mapped files stays in memory.

Pages of mapped files that were read count as memory of the process until the system needs them for something else. A
thread looks how many there are, and gives them back above a limit; whoever needs them again gets them from the system's
cache of files, or from the disk.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from pathlib import Path

from torch import Tensor

from graphprune.utils.tensor_files import StoredTensor

_STATM = Path("/proc/self/statm")

_PAUSE = 0.01
"""Seconds between two looks: some ten megabytes can be read meanwhile."""


class MappedFiles:
    """A context in which mapped tensors take a bounded memory, on Linux; elsewhere the system alone decides.

    Args:
        limit: bytes of pages of files that stay at most, beside those that are there when it is entered.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._memories: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._before = 0

    def map(self, stored: StoredTensor, shared: bool = False) -> Tensor:
        """A tensor in a file, mapped (see :meth:`graphprune.utils.tensor_files.StoredTensor.map`)."""
        return stored.map(shared, self._keep)

    def _keep(self, memory: mmap.mmap) -> None:
        with self._lock:
            self._memories.add(memory)

    def give_back(self) -> None:
        """Give all pages back. What was written to shared ones is in the file; others are never written to."""
        with self._lock:
            memories = list(self._memories)
        for memory in memories:
            memory.madvise(mmap.MADV_DONTNEED)

    def __enter__(self) -> MappedFiles:
        if _STATM.exists():
            self._before = _resident_file_bytes()
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_PAUSE):
            if _resident_file_bytes() - self._before > self._limit:
                self.give_back()


def _resident_file_bytes() -> int:
    """The bytes of files that are mapped and in memory."""
    return int(_STATM.read_text().split()[2]) * os.sysconf("SC_PAGE_SIZE")
