"""Fit a recurrent layer until it runs no nearer to the dense one on its own states.

A recurrent weight is first fitted on the states of the dense model. What it then makes of its own states, which are a
little off, may lead further away with every step, up to another attractor, however small the error of one step is. So
it is fitted again, on the dense states and on those that it came to itself, each with the dense result: it learns to
lead back. A fit after which its own states are further off is taken back.

Source: Ross, Gordon and Bagnell, "A Reduction of Imitation Learning and Structured Prediction to No-Regret Online
Learning", AISTATS 2011 (states that the fitted model itself comes to, with the answers of the model that is imitated).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from graphprune.reconstruction.lockstep import Fit, Gathered
from graphprune.reconstruction.matching import Match
from graphprune.reconstruction.records import LeftAlone, Repaired

AGAIN = 4
"""So many fits at most follow that on dense states."""
GAIN = 0.01
"""By this share of the error on own states a further fit must be nearer to be kept."""
LEADS_AWAY = "fits of it lead its own states further from the dense ones"

Entries = tuple[str, Tensor, Tensor]
"""Of a parameter the places that were written to, and what they had before."""


@dataclass(frozen=True)
class Fitted:
    """A consumer that was fitted.

    Attributes:
        match: the consumer.
        record: what is said of it.
        own_error: the error on the slim model's own states, as they were before.
        before: what was overwritten.
    """

    match: Match
    record: Repaired
    own_error: float
    before: tuple[Entries, ...]


def settled(
    fitted: Fitted,
    sweep: Callable[[Match, Fit], object],
    fit: Callable[[Gathered], Fitted],
    undo: Callable[[Fitted], None],
) -> Repaired | LeftAlone:
    """What is said of a recurrent layer, whose weight is the best of several fits, or the old one, afterwards.

    Args:
        fitted: its fit on dense states.
        sweep: gathers a consumer's data once more, and calls a function with them.
        fit: fits a consumer.
        undo: gives a consumer back what was overwritten.
    """
    kept = _Fits(fitted, fitted.own_error, fit, undo).run(partial(sweep, replace(fitted.match, on_own=True)))
    if kept is None:
        return LeftAlone(fitted.match.consumer.key.name, LEADS_AWAY)
    return replace(kept.record, before=max(kept.record.before, fitted.record.before))


@dataclass
class _Fits:
    """The fits of a layer, one after another; each is judged by the states that it comes to.

    Attributes:
        trial: the last one, if it is not judged.
        least: the error on own states without it.
        fit, undo: as for :func:`settled`.
        kept: the last one that was kept.
        left: how many more may be made.
    """

    trial: Fitted | None
    least: float
    fit: Callable[[Gathered], Fitted]
    undo: Callable[[Fitted], None]
    kept: Fitted | None = None
    left: int = AGAIN

    def run(self, sweep: Callable[[Fit], object]) -> Fitted | None:
        """The best fit, which is what the weight is then; None: it is as it was before all of them."""
        sweep(self._judge)
        if self.kept is None:
            sweep(self._fit_on_both)
        while self.trial is not None:
            sweep(self._judge)
        return self.kept

    def _judge(self, one: Gathered) -> bool:
        """Keep the last fit and make another one, or take it back."""
        assert self.trial is not None
        trial, self.trial = self.trial, None
        if one.own_error > self.least * (1.0 if self.kept is None else 1.0 - GAIN):
            self.undo(trial)
            return True
        self.kept, self.least = trial, one.own_error
        return self.left > 0 and self._fit_on_both(one)

    def _fit_on_both(self, one: Gathered) -> bool:
        """Make a fit on dense states and on the layer's own."""
        self.left -= 1
        made = self.fit(one)
        self.trial = made if made.before else None
        return bool(made.before)
