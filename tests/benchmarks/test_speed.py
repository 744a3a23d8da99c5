"""Runs that may take so much processor time."""

from __future__ import annotations

import itertools

import pytest

from benchmarks.limited import OverLimit, limited
from benchmarks.speed_cases import all_cases


def _forever() -> None:
    for _ in itertools.count():
        pass


def _failing() -> None:
    raise ValueError("no such network")


def test_what_a_run_returns_comes_back() -> None:
    assert limited(lambda: [1, 2], seconds=60) == [1, 2]


def test_a_run_is_stopped_when_its_time_is_used_up() -> None:
    with pytest.raises(OverLimit, match="over 1 s"):
        limited(_forever, seconds=1)


def test_what_goes_wrong_in_a_run_is_said() -> None:
    with pytest.raises(RuntimeError, match="ValueError: no such network"):
        limited(_failing, seconds=60)


def test_there_are_twenty_networks() -> None:
    names = [case.name for case in all_cases()]
    assert len(set(names)) == len(names) == 20
