"""What torch notes of dispatch modes for all threads, kept right where modes of several threads overlap."""

from __future__ import annotations

import threading
from weakref import WeakKeyDictionary

from torch.utils import _python_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

Flags = dict[str, bool]
"""Is any mode on, one that hides calls from the compiler, ...: by the name of torch's variable."""


_NAMES = tuple(k for k, v in vars(_python_dispatch).items() if k.startswith("_is_in_") and type(v) is bool)


def mode_flags() -> Flags:
    """The flags as they are."""
    found = vars(_python_dispatch)
    return {name: found[name] for name in _NAMES}


def set_mode_flags(flags: Flags) -> None:
    """Let the flags be these again; the compiler has a copy of one of them, except in torch 2.8."""
    vars(_python_dispatch).update(flags)
    copy = getattr(_python_dispatch, "set_is_in_mode_without_ignore_compile_internals", None)
    if copy is not None:
        copy(flags["_is_in_any_mode_without_ignore_compile_internals"])


class OverlappingModes:
    """Modes that are on, in any thread.

    A mode of torch restores the flags that it found. Of two modes that do not end in the reverse of the order in which
    they began, the later one finds the earlier one, and leaves flags that say so for good: nothing would be compiled
    any more in this process. When the last of these modes ends, the flags are what the first one found.
    """

    def __init__(self) -> None:
        self._on: WeakKeyDictionary[TorchDispatchMode, int] = WeakKeyDictionary()
        self._found = mode_flags()
        self._lock = threading.RLock()

    def begin(self, mode: TorchDispatchMode) -> None:
        """A mode is about to be entered."""
        with self._lock:
            if not self._on:
                self._found = mode_flags()
            self._on[mode] = threading.get_ident()

    def end(self, mode: TorchDispatchMode) -> None:
        """A mode was left, or taken off its stack."""
        with self._lock:
            self._on.pop(mode, None)
            if not self._on:
                set_mode_flags(self._found)

    def flags_without(self) -> Flags:
        """The flags as they are when none of these modes is on."""
        with self._lock:
            return self._found if self._on else mode_flags()

    def end_all_of(self, thread: int, flags: Flags) -> None:
        """A signal came while this thread entered or left modes; ``flags`` were those before them."""
        with self._lock:
            for mode in [mode for mode, its in self._on.items() if its == thread]:
                self._on.pop(mode, None)
            if not self._on:
                set_mode_flags(flags)
