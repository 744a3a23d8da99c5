"""Python files that graphprune wrote: they alone are replaced by new ones."""

from __future__ import annotations

import re
from pathlib import Path

from graphprune.errors import InputError

_HEAD = re.compile(
    r'"""(A pruned .+ of [\d,]+ parameters, written by graphprune\.$|.+ with [\d,]+ parameters, as it was pruned\.$)',
    re.MULTILINE,
)
"""How the docstrings of written files begin."""

_LONGEST_HEAD = 1000


def check_own_module(folder: Path, module: str, weights: str) -> None:
    """Raise an InputError if a Python file or the weights beside it would replace what graphprune did not write."""
    if _is_own(folder / module):
        return
    for path in (folder / module, folder / weights):
        if path.exists():
            raise InputError(
                f"directory: {path} is there, and graphprune did not write it; nothing was changed",
                where=str(path),
                found="a folder" if path.is_dir() else "a file that graphprune did not write",
                needed=f"a folder without {module} and {weights}, or with those of an earlier call",
                do="give another folder, or move the file away first",
            )


def _is_own(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return _HEAD.match(file.read(_LONGEST_HEAD)) is not None
