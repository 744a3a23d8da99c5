"""What came of pruning in rounds, as data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from graphprune.training.history import History
from graphprune.utils.tables import Printed, Table
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


@dataclass(frozen=True, eq=False, repr=False)
class IterativeResult(Printed):
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

    def _summary(self) -> str:
        last = [self.dense, *(one for one in self.rounds if one.good)][-1]
        stopped = ", stopped for quality" if self.stopped else ""
        return f"IterativeResult: {len(self.rounds)} rounds{stopped}, {last.removed:.1%} of the channels removed"

    def _parts(self) -> Iterator[Table]:
        columns = ("round", "removed", "params", "MACs", "before", "after", "asked")
        yield Table("", columns, tuple(map(_row, (self.dense, *self.rounds))), numbers=columns[:6])


def _row(one: Round) -> tuple[str, ...]:
    before, after = ("" if metric is None else f"{metric:.4f}" for metric in (one.before, one.after))
    note = "" if one.good else "  (too bad: the round before is kept)"
    sizes = f"{one.removed:.1%}", f"{one.params:,}", f"{one.macs:,}"
    return str(one.number or "dense"), *sizes, before, after, f"{one.asked}{note}"
