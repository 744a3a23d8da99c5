"""How far a long run is, for those who wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a stage is.

    Attributes:
        stage: ``"scores"``, ``"slices"``, ``"repair"`` or ``"weights"``.
        done, total: bytes of tensors.
        seconds: since the stage began.
    """

    stage: str
    done: int
    total: int
    seconds: float

    @property
    def seconds_left(self) -> float | None:
        """The time that the rest of the stage takes at the speed so far; None: nothing is done yet."""
        return self.seconds * (self.total - self.done) / self.done if self.done else None


ShowProgress = Callable[[Progress], object]


class Stage:
    """A part of a run, of which ``show`` is told how far it is.

    Args:
        name: see :class:`Progress`.
        total: bytes.
        show: is called after every tensor; None: nobody is.
    """

    def __init__(self, name: str, total: int, show: ShowProgress | None) -> None:
        self._name = name
        self._total = total
        self._show = show
        self._done = 0
        self._began = time.monotonic()

    def advance(self, nbytes: int) -> None:
        """So many bytes more are done; a stage that goes through tensors again does not go past its end."""
        self._done = min(self._done + nbytes, self._total)
        if self._show is not None:
            self._show(Progress(self._name, self._done, self._total, time.monotonic() - self._began))
