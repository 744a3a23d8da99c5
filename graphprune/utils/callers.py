"""Where this package was called from."""

from __future__ import annotations

import sys
from types import FrameType


def frames_of_this_package() -> int:
    """The ``stacklevel`` of the first caller outside this package, for a warning that the calling function gives."""
    package = __name__.partition(".")[0]
    frame: FrameType | None = sys._getframe(1)
    level = 1
    while frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        frame, level = frame.f_back, level + 1
    return level
