"""Run something in a process of its own that may take so much processor time, and no more."""

from __future__ import annotations

import multiprocessing
import resource
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

PATIENCE = 60
"""How many times as long a process may take that waits instead of working."""


class OverLimit(Exception):
    """The processor time was used up."""


def limited(run: Callable[[], Any], seconds: int) -> Any:
    """What ``run()`` returns, run in a copy of this process.

    Raises:
        OverLimit: it took more processor time.
        RuntimeError: it raised an exception, or the process ended without an answer.
    """
    context = multiprocessing.get_context("fork")  # what was imported and warmed up is there
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(run, seconds, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(PATIENCE * seconds):
            process.kill()
        failed, answer = receiver.recv()
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGXCPU:
            raise OverLimit(f"over {seconds} s") from None
        raise RuntimeError(f"ended with exit code {process.exitcode}") from None
    process.join()
    if failed:
        raise RuntimeError(answer)
    return answer


def _answer(run: Callable[[], Any], seconds: int, sender: Connection) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    limit = int(used.ru_utime + used.ru_stime) + seconds
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
    try:
        answer = (False, run())
    except Exception as error:
        answer = (True, f"{type(error).__name__}: {' '.join(str(error).split())[:80]}")
    sender.send(answer)
    sender.close()
