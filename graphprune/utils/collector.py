"""The garbage collector, paused while many objects are made that stay."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import get_ident


@contextmanager
def gc_paused() -> Iterator[None]:
    """Pause the garbage collector, which would look at all objects, for nothing, while many are made that stay.

    It goes on when the last thread that paused it is done.
    """
    pauses.begin()
    try:
        yield
    finally:
        pauses.end()


class Pauses:
    """Which threads paused the collector, and how often."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: Counter[int] = Counter()
        self._enabled = False

    def begin(self) -> None:
        with self._lock:
            if not self._running:
                self._enabled = gc.isenabled()
                gc.disable()
            self._running[get_ident()] += 1

    def end(self) -> None:
        with self._lock:
            self._end(get_ident(), 1)

    def end_all_of(self, thread: int) -> None:
        """A signal came before a pause of this thread could end."""
        with self._lock:
            if thread in self._running:
                self._end(thread, self._running[thread])

    def _end(self, thread: int, times: int) -> None:
        self._running[thread] -= times
        if self._running[thread] <= 0:
            del self._running[thread]
        if not self._running and self._enabled:
            gc.enable()


pauses = Pauses()
