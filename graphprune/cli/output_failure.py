"""Standard output that cannot be written to, apart from all other failures of files."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class OutputFailure(Exception):
    """Standard output cannot be written to."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


@contextmanager
def writing_output() -> Iterator[None]:
    """Where standard output is written, and nothing else is done. A reader that has seen enough is no failure."""
    try:
        yield
    except BrokenPipeError:
        discard_output()
    except OSError as error:
        raise OutputFailure(error) from error


def discard_output() -> None:
    """Let what is not written yet, and what follows, go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
