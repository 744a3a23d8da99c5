"""The loss of candidates: what is measured on a few samples, and what scores that are losses say of it.

Hundreds of candidates are judged by the same few samples, and the best by these is one that suits them. Scores that
add up to a loss say of each group alone what it loses, whatever is chosen of the others: beside what is measured they
hold back candidates that no more than seem better.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from graphprune.evolution.candidates import Allotment
from graphprune.evolution.depth import Candidates

Measure: TypeAlias = Callable[[Allotment], float]
"""The loss of a candidate; infinite: sizes in the program forbid it."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """What candidates lose, as scores and the harm of branches say; in units of a measured loss.

    Attributes:
        space: the candidates.
        dense: the loss of the dense model.
        unit: the measured loss that one of the scores is.
    """

    space: Candidates
    dense: float
    unit: float

    @staticmethod
    def of(space: Candidates, start: Allotment, measure: Measure, dense: float) -> Estimate:
        """Scores are scaled to what is measured of a candidate; where they are no losses, nothing is estimated.

        Args:
            space: the candidates.
            start: one of them that leaves out nothing whole.
            measure: the loss of a candidate.
            dense: that of the dense model.
        """
        known = space.width.setup.scores.additive
        return Estimate(space, dense, _share(measure(start) - dense, space.lost(start)) if known else 0.0)

    def __call__(self, candidate: Allotment) -> float:
        """The loss over that of the dense model; 0: nothing is known of it."""
        if not self.unit:
            return 0.0
        return self.unit * self.space.lost(candidate) + self._of_units(candidate.gone)

    def _of_units(self, gone: frozenset[int]) -> float:
        """What is lost without these, if each loses what it does alone; one not measured, as much as the worst."""
        harm = self.space.depth.harm - self.dense
        known = harm[np.isfinite(harm)]
        worst = float(known.max()) if len(known) else 0.0
        return sum(float(harm[number]) if np.isfinite(harm[number]) else worst for number in gone)


@dataclass(eq=False)
class JudgedLoss:
    """The measured and the estimated loss of candidates; of the first both have the same weight.

    Attributes:
        measure: the loss of a candidate.
        dense: that of the dense model by the same samples.
        estimate: see :class:`Estimate`.
        measured: what was measured. By the key of a candidate.
    """

    measure: Measure
    dense: float
    estimate: Estimate
    measured: dict[bytes, float] = field(default_factory=dict)
    _weight: float | None = None

    def __call__(self, candidate: Allotment) -> float:
        loss = self.measured[candidate.key] = self.measure(candidate)
        estimated = self.estimate(candidate)
        if self._weight is None and math.isfinite(loss):
            self._weight = _share(loss - self.dense, estimated)
        return loss + (self._weight or 0.0) * estimated


def _share(measured: float, estimated: float) -> float:
    """The one by the other; 0 unless both are more than nothing."""
    known = math.isfinite(measured) and measured > 0 and estimated > 0
    return measured / estimated if known else 0.0
