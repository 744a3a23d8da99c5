"""How far one tensor of outputs is from another, by what its numbers are."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from graphprune.calibration.output_kinds import YES_OR_NO, OutputKind

_LEAST = 1e-12
"""Probabilities of a slim model are no less, so that a single one of zero does not decide all."""


@dataclass(frozen=True)
class DivergenceSums:
    """Sums over rows of one tensor of an output.

    Attributes:
        errors: the squared error, or the divergence in nats, of each slice of the tensor's first dimension. [slices]
        own: of what was wanted, the squares, or the negative entropy in nats.
        rows: how many rows each channel has. [channels]
        total: the sums of what was wanted, values or probabilities. [channels]
    """

    errors: Tensor
    own: float
    rows: Tensor
    total: Tensor

    def plus(self, other: DivergenceSums) -> DivergenceSums:
        """The sums over the rows of both."""
        rows, total = self.rows + other.rows, self.total + other.total
        return DivergenceSums(torch.cat((self.errors, other.errors)), self.own + other.own, rows, total)

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


def relative_errors(kind: OutputKind, sums: Collection[DivergenceSums]) -> Tensor:
    """The errors of slices as fractions of the spread of all, of tensors that have several widths: [slices]."""
    return torch.cat([one.errors for one in sums]) / max(sum(one.spread(kind) for one in sums), 1e-30)


def sums_of(kind: OutputKind, found: Tensor, wanted: Tensor) -> DivergenceSums:
    """The sums of two tensors of the same shape."""
    if kind.of_classes:
        sums = _of_classes(kind.log_probabilities(found), kind.log_probabilities(wanted))
    else:
        rows, other = kind.rows(wanted), kind.rows(found)
        sums = _of_chances(other, rows) if kind.name == YES_OR_NO else _of_values(other, rows)
    slices = len(wanted) if wanted.ndim else 1
    return replace(sums, errors=sums.errors.reshape(slices, -1).sum(1).cpu())


def _of_classes(found: Tensor, wanted: Tensor) -> DivergenceSums:
    """Of logarithms of probabilities: [rows, classes]; rows that have none, as all is masked, do not count."""
    known = ~wanted.isnan().any(-1)
    chances = wanted.exp().where(known[:, None], 0.0)
    own = -torch.special.entr(chances).sum(-1)
    errors = own - chances.mul(found).where(chances > 0, 0.0).sum(-1)
    rows = torch.full((chances.shape[-1],), int(known.sum()), device="cpu")
    return DivergenceSums(errors, float(own.sum()), rows, chances.sum(0).cpu())


def _of_chances(found: Tensor, wanted: Tensor) -> DivergenceSums:
    """Of probabilities, each by itself: [rows, channels]."""
    chances = found.clamp(_LEAST, 1 - _LEAST)
    own = -_entropy(wanted).sum(-1)
    errors = own - (wanted * chances.log() + (1 - wanted) * (1 - chances).log()).sum(-1)
    rows = torch.full((wanted.shape[-1],), len(wanted), device="cpu")
    return DivergenceSums(errors, float(own.sum()), rows, wanted.sum(0).cpu())


def _entropy(chances: Tensor) -> Tensor:
    both: Tensor = torch.special.entr(chances) + torch.special.entr(1 - chances)
    return both


def _of_values(found: Tensor, wanted: Tensor) -> DivergenceSums:
    """Of values: [rows, channels]; those that are wanted to be infinite do not count."""
    known = wanted.isfinite()
    rows, error = wanted.where(known, 0.0), (found - wanted).where(known, 0.0)
    return DivergenceSums(error.square().sum(-1), float(rows.square().sum()), known.sum(0).cpu(), rows.sum(0).cpu())
