"""What came of pruning in rounds, as data."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from graphprune.training.history import History
from graphprune.utils.typed_json import Count


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        number: from 1 on; 0 is the dense model.
        asked: what this and the rounds before were to do to the dense model.
        removed: the fraction of the dense model's channels that are gone.
        params, macs: what the model has and costs (1 MAC = one multiply-add).
        before, after: what ``evaluate`` gave before and after training; None without it.
        good: is the quality within the bound?
        tuning: the history of the training, if :func:`graphprune.finetune` did it.
    """

    number: Count
    asked: str
    removed: float
    params: Count
    macs: Count
    before: float | None = None
    after: float | None = None
    good: bool = True
    tuning: History | None = None


@dataclass(frozen=True, eq=False)
class IterativeResult:
    """What came of pruning in rounds.

    Attributes:
        model: the model after the last round whose quality was within the bound.
        dense: the dense model, as a round of its own.
        rounds: all rounds; the last one may not be ``good``.
    """

    model: nn.Module
    dense: Round
    rounds: tuple[Round, ...]

    @property
    def stopped(self) -> bool:
        """Did the quality fall too far?"""
        return any(not r.good for r in self.rounds)

    def __str__(self) -> str:
        lines = [f"{'round':>5}  {'removed':>7}  {'params':>12}  {'MACs':>15}  {'before':>9}  {'after':>9}  asked"]
        for r in (self.dense, *self.rounds):
            metrics = "  ".join(f"{'' if m is None else format(m, '.4f'):>9}" for m in (r.before, r.after))
            note = "" if r.good else "  (too bad: the round before is kept)"
            sizes = f"{r.removed:>7.1%}  {r.params:>12,}  {r.macs:>15,}"
            lines.append(f"{r.number or 'dense':>5}  {sizes}  {metrics}  {r.asked}{note}".rstrip())
        return "\n".join(lines)
