"""How long things take, measured in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from graphprune.utils.random_state import random_numbers_kept

SHORTEST = 5e-3
"""Seconds that one measurement takes at least."""


TURN = 0.1
"""Seconds that models which are measured side by side run for before the next one does."""


def timed_turns(
    *runs: Callable[[], Any], shortest: float = SHORTEST, least: int = 5, warmup: int = 2, turn: float = TURN
) -> list[list[list[float]]]:
    """Seconds of the calls of each of ``runs``, by turn, after calls that are not counted.

    They take turns: a machine that is slower for a while is slower for all of them. In its turn each is called several
    times, as it will be used: the first call after another model finds caches and memory as that left them, and is not
    counted if it is short. What is measured alone is called once in a turn. Global random numbers go on afterwards as
    if nothing had been drawn.

    Args:
        runs: what is called.
        shortest: seconds for each of them, at least.
        least: turns, at least.
        warmup: how many times each is called first.
        turn: seconds that a turn takes, if there are several runs.
    """
    turns: list[list[list[float]]] = [[] for _ in runs]
    with random_numbers_kept():
        for run in runs * warmup:
            run()
        start = time.perf_counter()
        while len(turns[0]) < least or time.perf_counter() - start < shortest * len(runs):
            for run, found in zip(runs, turns, strict=True):
                found.append(_turn(run, 0.0 if len(runs) == 1 else turn))
    return turns


def median_seconds(
    *runs: Callable[[], Any], shortest: float = SHORTEST, least: int = 5, turn: float = TURN
) -> list[float]:
    """Seconds that each of ``runs`` takes: the median of several turns (:func:`timed_turns`).

    All but the first are measured in parts of what the first took in the turn before.
    """
    found = timed_turns(*runs, shortest=shortest, least=least, turn=turn)
    turns = [[statistics.median(times) for times in one] for one in found]
    first = statistics.median(turns[0])
    ratios = ([t / beside for t, beside in zip(found, turns[0], strict=True)] for found in turns[1:])
    return [first, *(first * statistics.median(found) for found in ratios)]


def _turn(run: Callable[[], Any], length: float) -> list[float]:
    """The times of as many calls as there is time for, in seconds; of one call, if there is none."""
    times = [_seconds(run)]
    while sum(times) < length:
        times.append(_seconds(run))
    return times[1:] or times


def _seconds(run: Callable[[], Any]) -> float:
    synchronize()
    start = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    """Wait until all devices that are in use have done what they were given."""
    if torch.cuda.is_initialized():
        for device in range(torch.cuda.device_count()):
            if torch.cuda.memory_reserved(device):  # one that is not in use would get a context, for nothing
                torch.cuda.synchronize(device)
    if torch.backends.mps.is_available():
        torch.mps.synchronize()
