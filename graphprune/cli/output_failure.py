"""Standard output that cannot be written to, apart from all other failures of files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class OutputFailure(Exception):
    """Standard output cannot be written to."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


@contextmanager
def writing_output() -> Iterator[None]:
    """Where standard output is written, and nothing else is done."""
    try:
        yield
    except OSError as error:
        raise OutputFailure(error) from error
