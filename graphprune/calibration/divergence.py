"""How far one tensor of outputs is from another, by what its numbers are."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from graphprune.calibration.output_kinds import YES_OR_NO, OutputKind

_LEAST = 1e-12
"""Probabilities of a slim model are no less, so that a single one of zero does not decide all."""


@dataclass(frozen=True)
class DivergenceSums:
    """Sums over rows of one tensor of an output.

    Attributes:
        error: the squared error, or the divergence in nats.
        own: of what was wanted, the squares, or the negative entropy in nats.
        rows: how many rows each channel has. [channels]
        total: the sums of what was wanted, values or probabilities. [channels]
    """

    error: float
    own: float
    rows: Tensor
    total: Tensor

    def plus(self, other: DivergenceSums) -> DivergenceSums:
        """The sums over the rows of both."""
        rows, total = self.rows + other.rows, self.total + other.total
        return DivergenceSums(self.error + other.error, self.own + other.own, rows, total)

    def spread(self, kind: OutputKind) -> float:
        """What the error is of a model that gives the mean of each channel; of a single row, equal chances or zero."""
        rows, single = self.rows.clamp(min=1), bool(self.rows.max() <= 1)
        mean = self.total / rows
        if kind.of_classes:
            entropy = math.log(len(rows)) * self.rows.max() if single else torch.special.entr(mean).mul(rows).sum()
            return self.own + float(entropy)
        if kind.name == YES_OR_NO:
            chances = torch.full_like(mean, 0.5) if single else mean
            return self.own + float(self.rows.mul(_entropy(chances)).sum())
        return self.own if single else self.own - float(self.total.square().div(rows).sum())


def relative_error(kind: OutputKind, sums: Collection[DivergenceSums]) -> float:
    """The error as a fraction of the spread, of tensors that have several widths."""
    return sum(one.error for one in sums) / max(sum(one.spread(kind) for one in sums), 1e-30)


def sums_of(kind: OutputKind, found: Tensor, wanted: Tensor) -> DivergenceSums:
    """The sums of two tensors of the same shape."""
    if kind.of_classes:
        return _of_classes(kind.log_probabilities(found), kind.log_probabilities(wanted))
    rows, other = kind.rows(wanted), kind.rows(found)
    return _of_chances(other, rows) if kind.name == YES_OR_NO else _of_values(other, rows)


def _of_classes(found: Tensor, wanted: Tensor) -> DivergenceSums:
    """Of logarithms of probabilities: [rows, classes]; rows that have none, as all is masked, do not count."""
    known = ~wanted.isnan().any(-1)
    found, wanted = found[known], wanted[known]
    chances = wanted.exp()
    own = -torch.special.entr(chances).sum()
    error = own - chances.mul(found).where(chances > 0, 0.0).sum()
    rows = torch.full((chances.shape[-1],), len(chances), device="cpu")
    return DivergenceSums(float(error), float(own), rows, chances.sum(0).cpu())


def _of_chances(found: Tensor, wanted: Tensor) -> DivergenceSums:
    """Of probabilities, each by itself: [rows, channels]."""
    chances = found.clamp(_LEAST, 1 - _LEAST)
    own = -_entropy(wanted).sum()
    error = own - (wanted * chances.log() + (1 - wanted) * (1 - chances).log()).sum()
    rows = torch.full((wanted.shape[-1],), len(wanted), device="cpu")
    return DivergenceSums(float(error), float(own), rows, wanted.sum(0).cpu())


def _entropy(chances: Tensor) -> Tensor:
    both: Tensor = torch.special.entr(chances) + torch.special.entr(1 - chances)
    return both


def _of_values(found: Tensor, wanted: Tensor) -> DivergenceSums:
    """Of values: [rows, channels]; those that are wanted to be infinite do not count."""
    known = wanted.isfinite()
    rows, error = wanted.where(known, 0.0), (found - wanted).where(known, 0.0)
    return DivergenceSums(
        float(error.square().sum()), float(rows.square().sum()), known.sum(0).cpu(), rows.sum(0).cpu()
    )
