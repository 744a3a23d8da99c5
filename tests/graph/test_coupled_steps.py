"""Coupled steps: what goes together because sizes tie the numbers of units."""

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy.optimize
from scipy.optimize import milp

from graphprune.graph.constraints import Equation
from graphprune.graph.coupled_steps import CoupledStep, make_coupled_steps
from graphprune.graph.linear_expressions import LinearExpression

CLASSES = 200


def units(start: int, count: int) -> np.ndarray:
    return np.arange(start, start + count)


def equation(constant: int, *terms: tuple[int, np.ndarray]) -> Equation:
    """``constant + sum(weight * living units) == 0``."""
    return Equation(LinearExpression(Fraction(constant), {a.tobytes(): (Fraction(w), a) for w, a in terms}), None)


def described(steps: list[CoupledStep]) -> list[tuple[list[int], tuple[int, ...], int]]:
    return sorted(([p.group for p in b.parts], b.each, b.steps) for b in steps)


def test_groups_without_ties_are_steps_of_their_own() -> None:
    assert described(make_coupled_steps([units(0, 5), units(5, 9)], [], CLASSES)) == [([0], (1,), 4), ([1], (1,), 8)]


def test_heads_and_the_width_that_they_fill() -> None:
    width, heads = units(0, 48), units(48, 6)
    steps = make_coupled_steps([width, heads], [equation(0, (1, width), (-8, heads))], CLASSES)
    assert described(steps) == [([0, 1], (8, 1), 5)]


def test_a_group_in_two_halves_that_must_be_equal() -> None:
    both = units(0, 12)
    steps = make_coupled_steps([both], [equation(0, (1, both[:6]), (-1, both[6:]))], CLASSES)
    assert described(steps) == [([0, 0], (1, 1), 5)]
    assert [p.unit_ids.tolist() for p in steps[0].parts] == [both[:6].tolist(), both[6:].tolist()]


def test_several_directions_in_proportion_to_the_sizes() -> None:
    a, b, c = units(0, 16), units(16, 16), units(32, 32)
    steps = make_coupled_steps([a, b, c], [equation(0, (1, a), (1, b), (-1, c))], CLASSES)
    assert described(steps) == [([0, 1, 2], (1, 1, 2), 15)]


def test_several_directions_without_a_common_measure() -> None:
    a, b, c = units(0, 5), units(5, 7), units(12, 12)
    steps = make_coupled_steps([a, b, c], [equation(0, (1, a), (1, b), (-1, c))], CLASSES)
    assert described(steps) == [([0, 1, 2], (1, 1, 2), 4)]


def test_the_search_for_a_step_has_no_limit_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, float]] = []

    def noted(*args: Any, options: dict[str, float], **rest: Any) -> Any:
        given.append(dict(options))
        return milp(*args, options=options, **rest)

    monkeypatch.setattr(scipy.optimize, "milp", noted)
    a, b, c = units(0, 5), units(5, 7), units(12, 12)
    make_coupled_steps([a, b, c], [equation(0, (1, a), (1, b), (-1, c))], CLASSES)
    assert [sorted(options) for options in given] == [["mip_rel_gap", "node_limit"]]


def test_numbers_that_cannot_change_are_in_no_step() -> None:
    a, b = units(0, 8), units(8, 4)
    assert make_coupled_steps([a], [equation(-8, (1, a))], CLASSES) == []
    assert make_coupled_steps([a, b], [equation(-12, (1, a), (1, b))], CLASSES) == []


@pytest.mark.parametrize("seed", range(8))
def test_every_step_keeps_every_equation(seed: int) -> None:
    """Chains of random ratios, checked by counting."""
    generator = np.random.default_rng(seed)
    base = int(generator.integers(9, 14))
    factors = generator.integers(1, 5, 4)
    starts = np.cumsum([0, *(base * factors)])
    members = [units(int(s), base * int(f)) for s, f in zip(starts, factors, strict=False)]
    ties = [
        equation(0, (int(factors[i + 1]), members[i]), (-int(factors[i]), members[i + 1]))
        for i in range(len(factors) - 1)
    ]
    (found,) = make_coupled_steps(members, ties, CLASSES * 2)
    for step in range(found.steps + 1):
        kept = {p.group: len(p.unit_ids) - n * step for p, n in zip(found.parts, found.each, strict=True)}
        assert min(kept.values()) >= 1
        assert all(kept[i] * factors[i + 1] == kept[i + 1] * factors[i] for i in range(len(factors) - 1))
    assert found.steps >= base // int(factors.max()) - 1
