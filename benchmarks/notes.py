"""Runs that are not repeated: what a benchmark of hours has measured so far."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class Notes:
    """What was measured so far, one run to a line of JSON.

    Runs of another version of the library are not told apart: who changes what is measured deletes the file.

    Args:
        path: the file; None: nothing is written down.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path is not None and path.exists() else ()
        self._found: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def once(self, key: Mapping[str, Any], run: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The first note that has all of ``key``; else the key with what ``run`` gives, which is noted."""
        for found in self._found:
            if key.items() <= found.items():
                return found
        return self._write({**key, **run()})

    @property
    def found(self) -> list[dict[str, Any]]:
        """All notes, the first one first."""
        return list(self._found)

    def _write(self, found: dict[str, Any]) -> dict[str, Any]:
        self._found.append(found)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write(json.dumps(found) + "\n")
        return found
