"""A forward pass in a thread of its own, which waits where it is told to and goes on when it is asked to."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from queue import SimpleQueue

import torch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from graphprune.reconstruction.passes import StopForward
from graphprune.utils.random_state import RandomStream

START = 1.0
"""Seconds that the system may take to begin a thread."""


class PausedForward:
    """A forward pass that can be paused from inside and resumed from outside.

    One of the two sides runs at a time: :meth:`advance` returns when the pass calls :meth:`wait`, or ends.

    Args:
        run: the pass; it is given this object, to call :meth:`wait`.
        stream: the random numbers that it draws; None: those of the global generators.
    """

    def __init__(self, run: Callable[[PausedForward], None], stream: RandomStream | None = None) -> None:
        self._run = run
        self._stream = stream
        self._go: SimpleQueue[None] = SimpleQueue()  # a Semaphore may lose a wake-up when a signal arrives amid it
        self._back: SimpleQueue[None] = SimpleQueue()
        self._state = _thread_state()
        self._error: BaseException | None = None
        self._closing = False
        self._thread: threading.Thread | None = None
        self.ended = False

    def advance(self) -> bool:
        """Run to the next pause; False at the end.

        Raises:
            BaseException: what the pass raised.
        """
        if self.ended:
            return False
        if self._thread is None:
            context = contextvars.copy_context()
            self._thread = threading.Thread(target=context.run, args=(self._body,), daemon=True)
            self._thread.start()
        with nullcontext() if self._stream is None else self._stream.going_on():
            self._go.put(None)
            self._back.get()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return not self.ended

    def wait(self) -> None:
        """Pause; called by the pass."""
        self._back.put(None)
        self._go.get()
        self.check()

    def check(self) -> None:
        """End the pass if it is to be closed; called by the pass."""
        if self._closing:
            raise StopForward

    def close(self) -> None:
        """End the pass where it is."""
        self._closing = True
        if self._thread is not None:
            self._go.put(None)
            _join(self._thread)
        self.ended = True

    def _body(self) -> None:
        self._go.get()
        try:
            with self._state():
                self.check()
                self._run(self)
        except StopForward:
            pass
        except BaseException as error:  # it is raised again by the side that waits
            self._error = error
        self.ended = True
        self._back.put(None)


def _join(thread: threading.Thread) -> None:
    """Wait for the end of a thread, whose start may have been interrupted before it began."""
    end = time.monotonic() + START
    while thread.ident is None and thread in threading.enumerate() and time.monotonic() < end:
        time.sleep(0.001)
    if thread.ident is not None:
        thread.join()


def _thread_state() -> Callable[[], AbstractContextManager[None]]:
    """A context that gives another thread what torch keeps for each thread: gradients, the device.

    Passes are run without autocast, as a new thread is.
    """
    gradients = torch.is_grad_enabled()
    devices = [mode.device for mode in _get_current_function_mode_stack() if isinstance(mode, DeviceContext)]

    @contextmanager
    def state() -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(torch.set_grad_enabled(gradients))
            for device in devices[-1:]:
                stack.enter_context(device)
            yield

    return state
