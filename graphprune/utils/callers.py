"""Where this package was called from."""

from __future__ import annotations

import sys
from types import FrameType

from graphprune.errors import Code, code_of


def frames_of_this_package() -> int:
    """The ``stacklevel`` of the first caller outside this package, for a warning that the calling function gives."""
    frame: FrameType | None = sys._getframe(1)
    level = 1
    while frame is not None and code_of(frame) in (Code.OWN, Code.COMMAND_LINE):
        frame, level = frame.f_back, level + 1
    return level
