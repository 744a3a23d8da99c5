"""Is a recurrent layer nearer to the dense one when it runs on its own states? A fit that is not is made otherwise.

A recurrent weight is fitted on the states of the dense model. What it then makes of its own states, which are a little
off, may lead further away with every step, up to another attractor, however small the error of one step is. Of such a
layer the weight is fitted on both kinds of states, each with the dense result, so that it leads back to the dense
states; and left as it was where that is no better.

Source: Ross, Gordon and Bagnell, "A Reduction of Imitation Learning and Structured Prediction to No-Regret Online
Learning", AISTATS 2011 (states that the fitted model itself comes to, with the answers of the model that is imitated).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from graphprune.reconstruction.lockstep import Fit, Gathered
from graphprune.reconstruction.matching import Match
from graphprune.reconstruction.records import LeftAlone, Repaired

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
    """What is said of a recurrent layer, whose weight is the fitted one, another or the old one afterwards.

    Args:
        fitted: its fit on dense states.
        sweep: gathers a consumer's data once more, and calls a function with them.
        fit: fits a consumer.
        undo: gives a consumer back what was overwritten.
    """
    if _own_error(fitted.match, sweep) <= fitted.own_error:
        return fitted.record
    undo(fitted)
    again: list[Fitted] = []

    def fit_on_both(one: Gathered) -> bool:
        again.append(fit(one))
        return True

    sweep(replace(fitted.match, on_own=True), fit_on_both)
    if _own_error(fitted.match, sweep) <= fitted.own_error:
        return again[0].record
    undo(again[0])
    return LeftAlone(fitted.match.consumer.key.name, LEADS_AWAY)


def _own_error(match: Match, sweep: Callable[[Match, Fit], object]) -> float:
    """The error of the results on the slim model's own states."""
    found: list[float] = []

    def note(one: Gathered) -> bool:
        found.append(one.own_error)
        return False

    sweep(match, note)
    return found[0]
