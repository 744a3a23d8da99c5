"""Checks of arguments: which numbers count as numbers, and what messages say."""

import doctest
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from graphprune.errors import InputError
from graphprune.utils import checks
from graphprune.utils.checks import check_count, check_fraction, check_known, check_positive

NO_NUMBERS = [None, "0.5", True, np.True_, float("nan"), 0.5j, [0.5]]


@pytest.mark.parametrize("value", [0, 0.5, np.float32(0.5), np.float64(0.0), Fraction(1, 2), np.int64(0)])
def test_fractions(value: Any) -> None:
    found = check_fraction("ratio", value)
    assert type(found) is float and found == value


@pytest.mark.parametrize("value", [*NO_NUMBERS, 1, -0.1, float("inf")])
def test_no_fractions(value: Any) -> None:
    with pytest.raises(InputError, match="ratio: must be a fraction, 0 <= ratio < 1, but is"):
        check_fraction("ratio", value)


def test_the_ends_of_a_fraction() -> None:
    assert check_fraction("target", 1, one=True) == 1.0
    with pytest.raises(InputError, match="target: must be a fraction of the cost, 0 < target <= 1, but is 0"):
        check_fraction("target", 0, "a fraction of the cost", zero=False, one=True)


@pytest.mark.parametrize("value", [2, np.int32(7), np.uint8(2)])
def test_counts(value: Any) -> None:
    found = check_count("rounds", value, 2)
    assert type(found) is int and found == value


@pytest.mark.parametrize("value", [*NO_NUMBERS, 1, 2.0, Fraction(5, 2), -3])
def test_no_counts(value: Any) -> None:
    with pytest.raises(InputError, match="rounds: must be a whole number, at least 2, but is"):
        check_count("rounds", value, 2)


@pytest.mark.parametrize("value", [2, 1e-9, np.float16(0.5), Fraction(1, 3)])
def test_positive_numbers(value: Any) -> None:
    assert check_positive("lr", value) == float(value)


@pytest.mark.parametrize("value", [*NO_NUMBERS, 0, -1, float("inf"), 10**400, np.float32("nan")])
def test_no_positive_numbers(value: Any) -> None:
    with pytest.raises(InputError, match="lr: must be a positive number, but is"):
        check_positive("lr", value)


def test_known_names() -> None:
    known = {"cosine": 1, "linear": 2}
    assert check_known("schedule", "linear", known) == "linear"
    message = "schedule: 'cosin' is not known; use one of 'cosine', 'linear', or a function; did you mean cosine\\?"
    with pytest.raises(InputError, match=message):
        check_known("schedule", "cosin", known, ", or a function")
    with pytest.raises(InputError, match="schedule: \\['linear'\\] is not known; use one of 'cosine', 'linear'"):
        check_known("schedule", ["linear"], known)


def test_examples_in_the_documentation() -> None:
    found = doctest.testmod(checks)
    assert found.attempted == 3 and not found.failed
