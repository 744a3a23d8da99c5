"""Which units must go together because a size in the program ties their numbers: heads with the width they fill.

The equations of :mod:`graphprune.graph.constraints` are linear in how many units of each part are kept. A *coupled
step* is a set of parts and a whole number of units of each, such that removing these keeps every equation true: one
head and 32 channels of the width. It is repeated; parts that no equation mentions are coupled steps of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from math import gcd, lcm

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from graphprune.graph.constraints import Equation
from graphprune.graph.linear_expressions import LinearExpression
from graphprune.graph.solve import ClassTable
from graphprune.utils.arrays import Ids, Mask

FINE = 8
"""A coupled step in proportion to the sizes of its parts should be taken at least this many times."""

_MOST_NODES = 10_000
"""So many linear programs are solved for the smallest step: under a limit of time it would depend on the machine."""

Row = dict[int, Fraction]


@dataclass(frozen=True, eq=False)
class SubGroup:
    """Units of one group that every equation treats alike; ``unit_ids`` are their classes."""

    group: int
    unit_ids: Ids


@dataclass(frozen=True, eq=False)
class CoupledStep:
    """One step removes ``each[i]`` units of ``parts[i]``."""

    parts: tuple[SubGroup, ...]
    each: tuple[int, ...]

    @property
    def steps(self) -> int:
        """How many steps leave at least one unit of every part."""
        return min((len(p.unit_ids) - 1) // n for p, n in zip(self.parts, self.each, strict=True))


def make_coupled_steps(members: Sequence[Ids], equations: Sequence[Equation], classes: int) -> list[CoupledStep]:
    """All coupled steps. ``members``: the selectable units of each group. Parts in no step cannot lose anything."""
    parts = make_subgroups(members, equations, classes)
    rows = _system(parts, equations, classes)
    tied = {i for row in rows for i in row}
    steps = [CoupledStep((p,), (1,)) for i, p in enumerate(parts) if i not in tied]
    for columns, here in _components(rows):
        if each := _step(columns, here, [len(parts[i].unit_ids) for i in columns]):
            moving = [(parts[i], n) for i, n in zip(columns, each, strict=True) if n]
            steps.append(CoupledStep(tuple(p for p, _ in moving), tuple(n for _, n in moving)))
    return steps


def make_subgroups(members: Sequence[Ids], equations: Sequence[Equation], classes: int) -> list[SubGroup]:
    """Cut groups where equations tell their units apart."""
    signature = np.zeros(classes, np.int64)
    noise = np.random.default_rng(1)
    for key in {k: units for e in equations for k, (_, units) in e.expression.terms.items()}.values():
        np.add.at(signature, key, noise.integers(1, 1 << 62, dtype=np.int64))
    parts: list[SubGroup] = []
    for number, units in enumerate(members):
        own = signature[units]
        if len(units) and (own == own[0]).all():
            parts.append(SubGroup(number, units))
            continue
        _, inverse = np.unique(own, return_inverse=True)
        parts.extend(SubGroup(number, units[inverse == i]) for i in range(inverse.max() + 1 if len(units) else 0))
    return parts


def _system(parts: Sequence[SubGroup], equations: Sequence[Equation], classes: int) -> list[Row]:
    """For every equation the coefficient of each part. The dense model satisfies all of them."""
    part_of = np.full(classes, -1, np.int32)
    for i, part in enumerate(parts):
        part_of[part.unit_ids] = i
    sizes = np.array([len(p.unit_ids) for p in parts])
    rows = {tuple(sorted(_row(equation.expression, part_of, sizes).items())) for equation in equations}
    return [dict(row) for row in sorted(rows) if row]


def _row(expression: LinearExpression, part_of: ClassTable, sizes: Ids) -> Row:
    row: Row = {}
    for weight, units in expression.terms.values():
        here = part_of[units]
        for i, times in zip(*np.unique(here[here >= 0], return_counts=True), strict=True):
            each = weight * Fraction(int(times), int(sizes[i]))
            row[int(i)] = row.get(int(i), Fraction(0)) + each
    return {i: value for i, value in row.items() if value}


def _components(rows: list[Row]) -> list[tuple[list[int], list[Row]]]:
    """Equations that share parts, together."""
    pairs = [(r, i) for r, row in enumerate(rows) for i in row]
    if not pairs:
        return []
    lines, columns = map(np.array, zip(*pairs, strict=True))
    n = len(rows)
    graph = coo_array((np.ones(len(pairs)), (lines, columns + n)), shape=(n + columns.max() + 1,) * 2)
    label = connected_components(graph, directed=False)[1]
    found = {}
    for which in dict.fromkeys(label[lines].tolist()):
        mine = sorted(set(columns[label[lines] == which].tolist()))
        found[which] = mine, [row for r, row in enumerate(rows) if label[r] == which]
    return list(found.values())


def _step(columns: list[int], rows: list[Row], sizes: list[int]) -> list[int] | None:
    """Whole numbers of units, one for each column, whose removal keeps all equations; None: there are none."""
    directions = _null_space(columns, rows)
    if len(directions) == 1:
        (direction,) = directions
        return _whole(direction) if all(v >= 0 for v in direction) else None
    if not directions:
        return None
    common = reduce(gcd, sizes)
    if common >= FINE and all(sum(v * sizes[columns.index(i)] for i, v in row.items()) == 0 for row in rows):
        return [n // common for n in sizes]
    moving = [any(d[k] for d in directions) for k in range(len(columns))]
    return _smallest(columns, rows, sizes, np.array(moving))


def _whole(direction: Sequence[Fraction]) -> list[int]:
    """The direction in the smallest whole numbers."""
    scale = lcm(*(v.denominator for v in direction))
    whole = [int(v * scale) for v in direction]
    return [v // reduce(gcd, whole) for v in whole]


def _null_space(columns: list[int], rows: list[Row]) -> list[list[Fraction]]:
    """All directions in which every row stays zero, by exact elimination."""
    solved: dict[int, Row] = {}
    for row in rows:
        left = dict(row)
        for pivot, known in solved.items():
            _subtract(left, known, left.get(pivot, Fraction(0)))
        if left:
            pivot = min(left)
            left = {i: v / left[pivot] for i, v in left.items()}
            for known in solved.values():
                _subtract(known, left, known.get(pivot, Fraction(0)))
            solved[pivot] = left
    free = [i for i in columns if i not in solved]
    one, zero = Fraction(1), Fraction(0)
    return [[-solved[i].get(f, zero) if i in solved else (one if i == f else zero) for i in columns] for f in free]


def _subtract(row: Row, other: Row, factor: Fraction) -> None:
    if factor:
        for i, value in other.items():
            row[i] = row.get(i, Fraction(0)) - factor * value
            if not row[i]:
                del row[i]


def _smallest(columns: list[int], rows: list[Row], sizes: list[int], moving: Mask) -> list[int] | None:
    """The fewest units of every part that can move at all: a small integer program."""
    from scipy.optimize import Bounds, LinearConstraint, milp  # loading it takes a third of the time of importing this

    matrix = np.zeros((len(rows), len(columns)))
    for r, row in enumerate(rows):
        scale = lcm(*(v.denominator for v in row.values()))
        for i, value in row.items():
            matrix[r, columns.index(i)] = float(value * scale)
    result = milp(
        1 / np.array(sizes, float),
        integrality=np.ones(len(columns)),
        bounds=Bounds(moving.astype(float), np.maximum(np.array(sizes) - 1, 1) * moving),
        constraints=LinearConstraint(matrix, 0, 0),
        options={"node_limit": _MOST_NODES, "mip_rel_gap": 1e-3},
    )
    return None if result.x is None else np.rint(result.x).astype(int).tolist()
