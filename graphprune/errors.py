"""Every error that graphprune raises on purpose, so that callers can catch one base class, and its warnings.

A message has five parts: what is wrong (a first line that stands alone), where, what was found, what is needed and
what to do. Programs read them as attributes.
"""

from __future__ import annotations

import linecache
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from enum import Enum
from functools import cache
from pathlib import Path
from types import FrameType
from typing import NamedTuple

_PACKAGE = str(Path(__file__).parent) + os.sep
_COMMAND_LINE = os.path.join(_PACKAGE, "cli") + os.sep
_PYTHON = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")})
_INSTALLED = ("site-packages", "dist-packages")
_TYPED = re.compile(r"<(stdin|string|input|console|[bi]?python-input|doctest|pyshell|timed |magic-|command-)")
"""Files of programs that are typed at a prompt or into a notebook, or given to ``exec``."""

_PARTS = ("where", "found", "needed", "do")
_LONGEST_LINE = 100
_COLORS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
"""What other libraries write into messages for terminals."""


class Owner(Enum):
    """Whose code it is that runs."""

    USER = "the user's"
    LIBRARY = "an installed library's"
    FRAMEWORK = "torch's or Python's, or what a program wrote"
    OWN = "graphprune's"
    COMMAND_LINE = "that of graphprune's command line: nobody's program called it"


def owner_of(frame: FrameType) -> Owner:
    """Whose code a frame runs."""
    file = frame.f_code.co_filename
    if file == "<string>" and str(frame.f_globals.get("__name__", "")).startswith("graphprune."):
        return Owner.OWN  # a method that Python wrote for a dataclass
    return _owner_in(file)


@cache
def _owner_in(file: str) -> Owner:
    if file.startswith(_PACKAGE):
        return Owner.COMMAND_LINE if file.startswith(_COMMAND_LINE) else Owner.OWN
    if file.startswith("<"):
        return Owner.USER if _TYPED.match(file) else Owner.FRAMEWORK
    torch = getattr(sys.modules.get("torch"), "__file__", None)
    if torch is not None and file.startswith(os.path.dirname(torch) + os.sep):
        return Owner.FRAMEWORK
    if any(f"{os.sep}{folder}{os.sep}" in file for folder in _INSTALLED):
        return Owner.LIBRARY
    return Owner.FRAMEWORK if file.startswith(_PYTHON) else Owner.USER


class CallLine(NamedTuple):
    """A line of a program, which called something; line 0: that of the shell."""

    file: str
    line: int

    def __str__(self) -> str:
        if not self.line:
            return "the command line"
        code = " ".join(linecache.getline(self.file, self.line).split())
        code = code if len(code) <= _LONGEST_LINE else f"{code[: _LONGEST_LINE - 3]}..."
        return f"{_short(self.file)}:{self.line}: {code}".rstrip(": ")


class GraphpruneError(Exception):
    """Base of all errors raised by graphprune.

    Args:
        what: what is wrong, in one line that stands alone.
        where: the layer, parameter, file or key that it is about, if there is one.
        found: the value, shape, type or device that was found.
        needed: what is taken instead.
        do: what to do next.

    Attributes:
        what, found, needed, do: as given.
        place: ``where`` as given.
        called_at: the line of the user's program that called graphprune, or that graphprune ran.
    """

    def __init__(self, what: str = "", *, where: str = "", found: str = "", needed: str = "", do: str = "") -> None:
        what, found = (_COLORS.sub("", text) for text in (what, found))
        super().__init__(what)
        self.what, _, more = what.partition("\n")  # what other libraries raise may have many lines
        self.place, self.needed, self.do = where, needed, do
        self.found = "\n".join(filter(None, (found, more.strip())))
        self.called_at = _user_call(_outwards(sys._getframe(1)))

    @property
    def where(self) -> str:
        """The place that the error is about, and the line of the user's program."""
        called_at = self.called_at or _user_call(traceback.walk_tb(self.__traceback__))
        return "\n".join(str(part) for part in (self.place, called_at) if part)

    def __str__(self) -> str:
        return "\n".join([self.what, *(_aligned(name, getattr(self, name)) for name in _PARTS if getattr(self, name))])


def _aligned(name: str, text: str) -> str:
    return f"  {name + ':':<8}" + text.replace("\n", "\n" + " " * 10)


def _outwards(frame: FrameType | None) -> Iterator[tuple[FrameType, int]]:
    """The frames that called each other and their lines, the innermost first."""
    while frame is not None:
        yield frame, frame.f_lineno
        frame = frame.f_back


def _user_call(frames: Iterable[tuple[FrameType, int]]) -> CallLine | None:
    """The first line that is of no library; where every one is of a library, the first of another one than torch."""
    other = None
    for frame, line in frames:
        owner, file = owner_of(frame), frame.f_code.co_filename
        if owner is Owner.COMMAND_LINE:
            return CallLine(file, 0)
        if owner is Owner.USER:
            return CallLine(file, line)
        if owner is Owner.LIBRARY:
            other = other or CallLine(file, line)
    return other


def _short(file: str) -> str:
    """A path relative to the working directory, where it lies inside it."""
    try:
        return file.removeprefix(os.path.join(os.getcwd(), ""))
    except OSError:  # it was deleted meanwhile
        return file


class InputError(GraphpruneError, ValueError):
    """An argument is not what the function needs; the message names it."""


class MissingPackageError(GraphpruneError, ImportError):
    """An optional package that a function needs is not installed; the message says how to install it."""


class TraceError(GraphpruneError, RuntimeError):
    """The model could not be run to be analyzed."""


class PlanError(GraphpruneError, ValueError):
    """A plan cannot be made, or does not fit the model it is applied to."""


class NoFloat64Error(PlanError):
    """Models are compared in float64 on the CPU, and an operation of this one does not run there; the message names
    it."""


class VerificationError(GraphpruneError, RuntimeError):
    """A slim model is not the masked original, or nothing shows that it is. The message is the whole comparison."""


class LoadError(GraphpruneError, ValueError):
    """Saved files do not describe the model that they are loaded into."""


class ExportError(GraphpruneError, ValueError):
    """A form of file cannot hold a model; the message says why, and which other way there is."""


class SaveError(GraphpruneError, ValueError, OSError):
    """Files cannot be written, or not such that they can be read again; old ones are as before. The message says what
    to do. ``errno`` is that of the system, where it refused."""


class ProcessError(GraphpruneError, RuntimeError):
    """Another process that shares the work failed, or does not answer; the message says which and how."""


class SpecError(GraphpruneError, ValueError):
    """A model specification on the command line names nothing that can be built."""


class RuleError(GraphpruneError, RuntimeError):
    """A rule contradicts itself or another one: a mistake in graphprune or in a user's rule."""


class SearchInterruptedWarning(UserWarning):
    """A search for an allocation was interrupted, and the best of the candidates that it had tried is taken."""


class NothingRemovedWarning(UserWarning):
    """Something was asked for, and the plan removes nothing for it; the message says why."""


class ChannelsKeptWarning(UserWarning):
    """Channels are zero, or masked in some weights, and stay; the message says which and why."""


class UnmeasuredGroupsWarning(UserWarning):
    """A sensitivity has no loss of some groups, so that these are pruned last; the message names them."""


class DamagedTableWarning(UserWarning):
    """The file of measured kernels is damaged, or cannot be written; they are measured again."""


class UnreachedWarning(UserWarning):
    """No example ran what uses some parameters, buffers or tensors in attributes, and channels that they may belong to
    were removed; the message names them."""


class BatchedSamplesWarning(UserWarning):
    """The samples of a calibration batch cannot be told apart, so gradients are those of whole batches."""


class EndlessBatchesWarning(UserWarning):
    """Calibration batches that do not say how many they are go on and on, and all of them are read."""


class DenseWeightsWarning(UserWarning):
    """Weights among those that are to be masked stay dense, since modules make them of other parameters."""


class UnsavedValuesWarning(UserWarning):
    """A bundle does not hold some values of the model, which are no tensors of its modules; the message names them."""


class SharedMemoryWarning(UserWarning):
    """Parameters are views of one memory without being one parameter, and are separate in the slim model; the message
    names them."""


class RestartedStateWarning(UserWarning):
    """An optimizer keeps other statistics for parameters of the sizes after pruning, and their state begins anew; the
    message names the first."""


class UnfinishedScheduleWarning(UserWarning):
    """Training ended before a schedule did, so that less was removed or masked than was asked for."""


class UnsharedBatchesWarning(UserWarning):
    """Calibration batches were dealt to processes, and each process uses its own alone."""
