"""Where in the user's source something happened: a line, and the expressions that were being computed there."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import CodeType, FrameType

from graphprune.errors import CallLine, Owner, owner_of
from graphprune.tracing.sizes import Line

_TRACING = str(Path(__file__).parent) + "/"

_OF_MODELS = (Owner.USER, Owner.LIBRARY)
"""Whose code models consist of, beside torch's."""

_owners: dict[str, Owner] = {}
"""Whose the files are that were met."""

_CALLERS = 4
"""How many functions of the user are looked at, the innermost first."""


class Place(tuple[str, int]):
    """A line of the user's source, and where the function on it and those that called it were: code, instruction."""

    running: tuple[tuple[CodeType, int], ...]

    def __new__(cls, line: Line, running: tuple[tuple[CodeType, int], ...]) -> Place:
        self = super().__new__(cls, line)
        self.running = running
        return self


def user_line(frame: FrameType | None) -> Line | None:
    """The innermost line that is neither torch's, Python's nor this library's."""
    found = _user_frame(frame)
    return (found.f_code.co_filename, found.f_lineno) if found else None


def user_place(frame: FrameType | None) -> Place | None:
    """The innermost line that is not torch's, Python's or this library's, and the functions of the user that led to it.

    A program without source (one that ``torch.fx`` wrote) has no line: then it is that of the call of this library, and
    none on the command line.
    """
    first = _user_frame(frame)
    if first is None:
        return None
    one: FrameType | None = None if _left_tracing(frame, first) else first
    running: list[tuple[CodeType, int]] = []
    while one is not None and len(running) < _CALLERS and owner_of(one) in _OF_MODELS:
        running.append((one.f_code, one.f_lasti))
        one = one.f_back
    return Place((first.f_code.co_filename, first.f_lineno), tuple(running))


def _left_tracing(frame: FrameType | None, end: FrameType) -> bool:
    """Is a frame of this library that does not trace between ``frame`` and ``end``?"""
    while frame is not None and frame is not end:
        if owner_of(frame) is Owner.OWN and not frame.f_code.co_filename.startswith(_TRACING):
            return True
        frame = frame.f_back
    return False


def _user_frame(frame: FrameType | None) -> FrameType | None:
    owners = _owners  # every operation of a trace asks
    while frame is not None:
        file = frame.f_code.co_filename
        owner = owners.get(file)
        if owner is None:
            owner = owner_of(frame)
            if not file.startswith("<"):  # of those the name does not say whose they are
                owners[file] = owner
        if owner in _OF_MODELS:
            return frame
        if owner is Owner.COMMAND_LINE:
            return None
        frame = frame.f_back
    return None


def raised_at(error: BaseException) -> str:
    """``file:number: source`` of the innermost line of the user's program in a traceback; empty: there is none."""
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if owner_of(frame) in _OF_MODELS]
    return str(CallLine(frames[-1][0].f_code.co_filename, frames[-1][1])) if frames else ""
