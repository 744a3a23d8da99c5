"""How many units of each group are kept.

Without demands from sizes in the code, each group keeps its share. Where sizes tie counts together, a small integer
program finds the counts nearest to the shares that satisfy every equation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor, lcm

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, csr_array, hstack, vstack

from graphprune.equations import Equation
from graphprune.labels import Ids


@dataclass(frozen=True)
class Part:
    """Units of one group that every equation treats alike; ``atoms`` are their classes."""

    group: int
    atoms: Ids


def share_kept(units: int, ratio: float) -> int:
    """How many of ``units`` are kept when the fraction ``ratio`` is removed; at least one."""
    return max(1, units - floor(ratio * units + 1e-9))


def make_parts(members: Sequence[Ids], equations: Sequence[Equation], classes: int) -> list[Part]:
    """Cut groups where equations tell their units apart. ``members``: the selectable atoms of each group."""
    signature = np.zeros(classes, np.int64)
    noise = np.random.default_rng(1)
    for key in {k: atoms for e in equations for k, (_, atoms) in e.form.bags.items()}.values():
        np.add.at(signature, key, noise.integers(1, 1 << 62, dtype=np.int64))
    parts: list[Part] = []
    for number, atoms in enumerate(members):
        _, inverse = np.unique(signature[atoms], return_inverse=True)
        parts.extend(Part(number, atoms[inverse == i]) for i in range(inverse.max() + 1 if len(atoms) else 0))
    return parts


def allocate(parts: Sequence[Part], shares: Sequence[int], equations: Sequence[Equation], classes: int) -> list[int]:
    """The number of units to keep of each part.

    ``shares[g]`` is the number to keep of group ``g``. Groups that no equation mentions get exactly that.
    """
    matrix, right = _system(parts, equations, classes)
    tied = np.zeros(len(parts), bool)
    tied[matrix.indices] = True
    groups = np.array([p.group for p in parts], np.int64)
    tied = np.isin(groups, groups[tied]) if tied.any() else tied
    kept = [shares[p.group] for p in parts]
    if tied.any():
        columns = np.flatnonzero(tied)
        counts = _nearest([parts[i] for i in columns.tolist()], shares, matrix[:, columns], right)
        for i, count in zip(columns.tolist(), counts, strict=True):
            kept[i] = count
    return kept


def _system(parts: Sequence[Part], equations: Sequence[Equation], classes: int) -> tuple[csr_array, np.ndarray]:
    part_of = np.full(classes, -1, np.int64)
    for i, part in enumerate(parts):
        part_of[part.atoms] = i
    sizes = np.array([len(p.atoms) for p in parts])
    rows, columns, values, right = [], [], [], []
    for row, equation in enumerate(equations):
        form = equation.form
        scale = lcm(form.constant.denominator, *(weight.denominator for weight, _ in form.bags.values()))
        coefficients: dict[int, Fraction] = {}
        constant = form.constant
        for weight, atoms in form.bags.values():
            here = part_of[atoms]
            constant += weight * int((here < 0).sum())
            for i, times in zip(*np.unique(here[here >= 0], return_counts=True), strict=True):
                each = weight * Fraction(int(times), int(sizes[i]))
                coefficients[int(i)] = coefficients.get(int(i), Fraction(0)) + each
        for i, value in coefficients.items():
            if value:
                rows.append(row)
                columns.append(i)
                values.append(float(value * scale))
        right.append(float(-constant * scale))
    shape = (len(equations), len(parts))
    return coo_array((values, (rows, columns)), shape=shape).tocsr(), np.array(right)


def _nearest(parts: Sequence[Part], shares: Sequence[int], matrix: csr_array, right: np.ndarray) -> list[int]:
    """Integer counts that satisfy ``matrix @ counts == right``, nearest to the shares, group by group."""
    used = np.diff(matrix.indptr) > 0
    matrix, right = matrix[used], right[used]
    groups = sorted({p.group for p in parts})
    column = {g: i for i, g in enumerate(groups)}
    sizes = np.array([len(p.atoms) for p in parts], float)
    membership = coo_array(
        (np.ones(len(parts)), ([column[p.group] for p in parts], range(len(parts)))),
        shape=(len(groups), len(parts)),
    ).tocsr()
    whole = membership @ sizes
    target = np.array([shares[g] for g in groups], float)
    fair = sizes * (membership.T @ (target / whole))
    n, g = len(parts), len(groups)
    identity = lambda k: coo_array((np.ones(k), (range(k), range(k))), shape=(k, k)).tocsr()  # noqa: E731
    blank = lambda r, c: csr_array((r, c))  # noqa: E731
    constraints = [
        LinearConstraint(hstack([matrix, blank(len(right), g + n)]).tocsr(), right, right),
        LinearConstraint(hstack([membership, blank(g, g + n)]).tocsr(), np.ones(g), whole),
        _absolute(membership, target, hstack([identity(g), blank(g, n)]).tocsr()),
        _absolute(identity(n), fair, hstack([blank(n, g), identity(n)]).tocsr()),
    ]
    cost = np.concatenate([np.zeros(n), 1 / whole, 1e-3 / sizes])
    upper = np.concatenate([sizes, np.full(g + n, np.inf)])
    kinds = np.concatenate([np.ones(n), np.zeros(g + n)])
    result = milp(
        cost,
        integrality=kinds,
        bounds=Bounds(0, upper),
        constraints=constraints,
        options={"time_limit": 20, "mip_rel_gap": 1e-3},
    )
    if result.x is None:
        return [len(p.atoms) for p in parts]
    return np.rint(result.x[:n]).astype(int).tolist()


def _absolute(matrix: csr_array, target: np.ndarray, deviation: csr_array) -> LinearConstraint:
    """``deviation @ d >= |matrix @ x - target|`` as two inequalities."""
    above = hstack([matrix, -deviation])
    below = hstack([-matrix, -deviation])
    return LinearConstraint(vstack([above, below]).tocsr(), -np.inf, np.concatenate([target, -target]))
