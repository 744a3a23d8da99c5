"""Numbers of units as linear expressions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from math import lcm

import numpy as np

from graphprune.utils.arrays import Ids


@dataclass(frozen=True, eq=False)
class LinearExpression:
    """``constant`` plus, for every ``(weight, units)``, the weight times the number of living units."""

    constant: Fraction
    terms: dict[bytes, tuple[Fraction, Ids]] = field(default_factory=dict)

    def plus(self, other: LinearExpression, factor: int | Fraction = 1) -> LinearExpression:
        added = other.times(factor)
        if not added.terms:
            return LinearExpression(self.constant + added.constant, self.terms)
        terms = dict(self.terms)
        for key, (weight, units) in added.terms.items():
            known = terms.get(key)
            terms[key] = weight if known is None else known[0] + weight, units
        live = {k: b for k, b in terms.items() if b[0]}
        return LinearExpression(self.constant + added.constant, live)

    def times(self, factor: int | Fraction) -> LinearExpression:
        if factor == 1:
            return self
        terms = {key: (weight * factor, units) for key, (weight, units) in self.terms.items()} if factor else {}
        return LinearExpression(self.constant * factor, terms)

    @property
    def dense(self) -> Fraction:
        """What it is when all units live."""
        return self.constant + sum(weight * len(units) for weight, units in self.terms.values())

    @property
    def multiples(self) -> Iterator[tuple[Ids, int]]:
        """The units of each term that may be a fraction, and a number of which they must be a multiple to be none."""
        for weight, units in self.terms.values():
            each, counts = np.unique(units, return_counts=True)
            number = lcm(*((weight * times).denominator for times in set(counts.tolist())))
            if number > 1:
                yield each, number

    @property
    def units(self) -> Ids:
        arrays = [units for _, units in self.terms.values()]
        return np.concatenate(arrays) if arrays else np.zeros(0, np.int64)


def constant_expression(value: int) -> LinearExpression:
    return LinearExpression(Fraction(value))


class NotLinear(Exception):
    """A size expression is not linear in the numbers of units; ``units`` are those involved."""

    def __init__(self, *expressions: LinearExpression) -> None:
        super().__init__("a product or quotient of two sizes that may change")
        self.units = np.concatenate([f.units for f in expressions])
