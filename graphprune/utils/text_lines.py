"""Lines of texts, which line feeds end and nothing else.

``str.splitlines`` ends lines at form feeds, which Python's own sources may have, and at separators of Unicode, which
JSON may have within a string.
"""

from __future__ import annotations


def lines_of(text: str, ends: bool = False) -> list[str]:
    """The lines of a text.

    Args:
        text: as Python reads files: ``"\\n"`` is what ends lines.
        ends: with what ends them.
    """
    *whole, last = text.split("\n")
    return [*(f"{line}\n" if ends else line for line in whole), *([last] if last else [])]
