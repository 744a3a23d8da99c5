"""Try candidates until a limit: evolution with shrinking steps.

Sources: Tang, Sieberling, Kurtic, Shen and Alistarh, "DarwinLM: Evolutionary Structured Pruning of Large Language
Models", 2025; Sieberling, Kuznedelev, Kurtic and Alistarh, "EvoPress: Accurate Dynamic Model Compression via
Evolutionary Search", ICML 2025 (width is exchanged between layers at a constant size, candidates are judged by the
divergence of the outputs).
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from graphprune.errors import SearchInterruptedWarning
from graphprune.evolution.candidates import Allotment
from graphprune.utils.callers import frames_of_this_package
from graphprune.utils.random_state import WORD

FIRST_STEP, LAST_STEP = 0.3, 0.02
"""How much of a group is exchanged at most, at the beginning and at the end."""
SURVIVORS = 4
"""So many of the best candidates have offspring."""
FUTILE = 50
"""So many exchanges in a row that lead to known candidates end a search."""

ShowTried = Callable[[int, float, float], None]
"""Is told how many candidates were tried, what the start is judged to lose and the least so far."""


@dataclass
class Limits:
    """When a search ends.

    Attributes:
        candidates: the most that are tried.
        deadline: when none is tried any more, by ``time.monotonic()``; None: whenever.
        began: when the search began.
    """

    candidates: int
    deadline: float | None
    began: float = field(default_factory=lambda: time.monotonic())  # of the module: another clock may be in its place

    def progress(self, tried: int) -> float:
        """The part of the search that is over, 0 to 1; 1: it ends."""
        by_count = tried / self.candidates
        if self.deadline is None:
            return min(by_count, 1.0)
        spent, allowed = time.monotonic() - self.began, self.deadline - self.began
        return min(max(by_count, spent / allowed if allowed > 0 else 1.0), 1.0)


@dataclass
class Evolution:
    """What was tried.

    Attributes:
        loss_of: what a candidate is judged to lose; infinite: sizes in the program forbid it.
        exchanged: another candidate near one, given the size of the step.
        seed: of the choices.
        first_step: how much of a group is exchanged at most in the beginning.
        survivors: the best candidates with their losses, the best first.
        tried: how many candidates were.
        interrupted: Ctrl-C ended it.
    """

    loss_of: Callable[[Allotment], float]
    exchanged: Callable[[Allotment, float, np.random.Generator], Allotment]
    seed: int
    first_step: float = FIRST_STEP
    survivors: list[tuple[float, Allotment]] = field(default_factory=list)
    tried: int = 0
    interrupted: bool = False
    _seen: set[bytes] = field(default_factory=set)

    def begin(self, starts: Sequence[Allotment]) -> None:
        """Try the candidates that others come from, whatever the limits."""
        for start in starts:
            self._try(start)

    def run(self, limits: Limits, known: Sequence[Allotment] = ()) -> None:
        """Try candidates until a limit, or until Ctrl-C: first those that are given, then such as come from the best.

        Warns:
            SearchInterruptedWarning: Ctrl-C ended the search.
        """
        start = self.survivors[0][0]
        try:
            with _shown(limits) as show:
                for candidate in self._candidates(limits, known):
                    self._try(candidate)
                    show(self.tried, start, self.survivors[0][0])
        except KeyboardInterrupt:
            self.interrupted = True
            warnings.warn(
                f"allocation='searched' was interrupted after {self.tried} candidates; the best of them is taken. "
                "Interrupt again to end the call",
                SearchInterruptedWarning,
                stacklevel=frames_of_this_package(),
            )

    def _candidates(self, limits: Limits, known: Sequence[Allotment]) -> Iterator[Allotment]:
        """Candidates that are new, until a limit or until there are none."""
        rng, futile, waiting = np.random.default_rng(self.seed % WORD), 0, list(known)
        while (over := limits.progress(self.tried)) < 1 and futile < FUTILE:
            if waiting:
                candidate = waiting.pop(0)
            else:
                parent = self.survivors[min(rng.integers(len(self.survivors), size=2))][1]
                step = self.first_step * (LAST_STEP / self.first_step) ** over
                candidate = self.exchanged(parent, step, rng)
            futile = futile + 1 if candidate.key in self._seen else 0
            if not futile:
                yield candidate

    def _try(self, candidate: Allotment) -> None:
        """Judge a candidate; the best so far survive."""
        if candidate.key in self._seen:
            return
        loss = self.loss_of(candidate)
        self._seen.add(candidate.key)
        self.tried += 1
        self.survivors = sorted([*self.survivors, (loss, candidate)], key=lambda pair: pair[0])[:SURVIVORS]


@contextmanager
def _shown(limits: Limits) -> Iterator[ShowTried]:
    """A progress bar, if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda tried, start, least: None
        return
    from rich.console import Console  # importing rich takes longer than tracing a model
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("searching", total=1.0)

        def show(tried: int, start: float, least: float) -> None:
            text = f"{tried} candidates, the best at {least:.4g}, the start at {start:.4g}; Ctrl-C takes the best"
            bar.update(task, completed=limits.progress(tried), description=text)

        yield show
