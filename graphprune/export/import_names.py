"""The name by which another process imports a module."""

from __future__ import annotations

import sys
from pathlib import Path


def import_name(module: str) -> str:
    """The name of a module's file, if this process has it by that too; else the name that it was given here.

    The command line imports a file under a name of its own, which no other process knows.
    """
    found = sys.modules.get(module)
    file = Path(getattr(found, "__file__", None) or "")
    package, _, last = module.rpartition(".")
    name = f"{package}.{file.stem}" if package else file.stem
    return name if last not in (file.stem, file.parent.name) and sys.modules.get(name) is found else module
