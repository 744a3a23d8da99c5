"""Where in the user's source something happened: a line, and the expressions that were being computed there."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from types import CodeType, FrameType

import torch

from graphprune.errors import CallLine
from graphprune.tracing.sizes import Line

_PACKAGE = str(Path(__file__).parents[1]) + "/"


_TRACING = str(Path(__file__).parent) + "/"


_LIBRARY = (torch.__path__[0] + "/", _PACKAGE)


_PROMPTS = "stdin|string|console|python-input|ipython-input"
"""Files of programs that are typed at a prompt, or given to ``exec``."""


_BETWEEN = re.compile(rf"/unittest/|/contextlib\.py$|^<(?!{_PROMPTS})")


_is_library: dict[str, bool] = {}


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
    """The innermost line that is neither torch's nor this library's."""
    found = _user_frame(frame)
    return (found.f_code.co_filename, found.f_lineno) if found else None


def user_place(frame: FrameType | None) -> Place | None:
    """The innermost line that is neither torch's nor this library's, with the functions of the user that led to it.

    A program without source (one that ``torch.fx`` wrote) has no line: then it is that of the call of this library.
    """
    first = _user_frame(frame)
    if first is None:
        return None
    one: FrameType | None = None if _left_tracing(frame, first) else first
    running: list[tuple[CodeType, int]] = []
    while one is not None and len(running) < _CALLERS and not is_library(one.f_code.co_filename):
        running.append((one.f_code, one.f_lasti))
        one = one.f_back
    return Place((first.f_code.co_filename, first.f_lineno), tuple(running))


def _left_tracing(frame: FrameType | None, end: FrameType) -> bool:
    """Is a frame of this library that does not trace between ``frame`` and ``end``?"""
    while frame is not None and frame is not end:
        file = frame.f_code.co_filename
        if file.startswith(_PACKAGE) and not file.startswith(_TRACING):
            return True
        frame = frame.f_back
    return False


def _user_frame(frame: FrameType | None) -> FrameType | None:
    known = _is_library
    while frame is not None:
        file = frame.f_code.co_filename
        if not (known.get(file) or is_library(file)):
            return frame
        frame = frame.f_back
    return None


def is_library(file: str) -> bool:
    """Is a source file torch's or this library's?"""
    known = _is_library.get(file)
    if known is None:
        known = _is_library[file] = file.startswith(_LIBRARY) or bool(_BETWEEN.search(file))
    return known


def raised_at(error: BaseException) -> str:
    """``file:number: source`` of the innermost line of the user's program in a traceback; empty: there is none."""
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [(file, line) for file, line in frames if not is_library(file)]
    return str(CallLine(*own[-1])) if own else ""
