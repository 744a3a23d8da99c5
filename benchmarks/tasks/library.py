"""The source files of Python's standard library, as text to learn from and text to be tested with.

What is in them depends on the version of Python; numbers are compared within one.
"""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
HELD_OUT = 10
"""One file in so many is for testing, and another one for validation."""
TEST, VALIDATION = 0, 1


def source_files(held_out: bool) -> Iterator[str]:
    """The texts of the library's modules, by name: those that are held out for testing, or the others."""
    return texts(lambda part: (part == TEST) == held_out)


def texts(wanted: Callable[[int], bool]) -> Iterator[str]:
    """The texts of the modules, by name, whose part of the library is wanted."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root)
        if SKIPPED.isdisjoint(name.parts) and wanted(part_of(name.as_posix())):
            yield path.read_text(encoding="utf-8", errors="replace")


def part_of(name: str) -> int:
    """One of ``HELD_OUT`` equal parts, decided by the file's name alone, so that no other file matters."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % HELD_OUT
