"""Numbers of units as linear expressions."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from graphprune.utils.arrays import Ids


@dataclass(frozen=True, eq=False)
class LinearExpression:
    """``constant`` plus, for every ``(weight, atoms)``, the weight times the number of living atoms."""

    constant: Fraction
    bags: dict[bytes, tuple[Fraction, Ids]] = field(default_factory=dict)

    def plus(self, other: LinearExpression, factor: int | Fraction = 1) -> LinearExpression:
        bags = dict(self.bags)
        for key, (weight, atoms) in other.bags.items():
            total = bags.get(key, (Fraction(0), atoms))[0] + weight * factor
            bags[key] = total, atoms
        live = {k: b for k, b in bags.items() if b[0]}
        return LinearExpression(self.constant + other.constant * factor, live)

    def times(self, factor: int | Fraction) -> LinearExpression:
        return LinearExpression(Fraction(0)).plus(self, factor)

    @property
    def atoms(self) -> Ids:
        arrays = [atoms for _, atoms in self.bags.values()]
        return np.concatenate(arrays) if arrays else np.zeros(0, np.int64)


def constant(value: int) -> LinearExpression:
    return LinearExpression(Fraction(value))


class NotLinear(Exception):
    """A size expression is not linear in the numbers of units; ``atoms`` are those involved."""

    def __init__(self, *forms: LinearExpression) -> None:
        super().__init__("a product or quotient of two sizes that may change")
        self.atoms = np.concatenate([f.atoms for f in forms])
