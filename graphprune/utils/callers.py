"""Where this package was called from."""

from __future__ import annotations

import sys
from types import FrameType

from graphprune.errors import Owner, owner_of


def frames_of_this_package() -> int:
    """The ``stacklevel`` of the first caller outside this package, for a warning that the calling function gives."""
    frame: FrameType | None = sys._getframe(1)
    level = 1
    while frame is not None and owner_of(frame) in (Owner.OWN, Owner.COMMAND_LINE):
        frame, level = frame.f_back, level + 1
    return level
