"""Things are timed in turns."""

import re

import pytest

from graphprune.utils import timing
from graphprune.utils.timing import median_seconds


def test_seconds_are_a_median_of_several_runs() -> None:
    calls: list[int] = []
    (one,) = median_seconds(lambda: calls.append(1), shortest=0.0, least=5)
    assert 0 < one < 1e-2
    assert calls == [1] * 7


def test_models_side_by_side_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn's first call is not counted, and a machine that becomes slower does so for both."""
    now, calls = 0.0, list[str]()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now)

    def take(which: str, seconds: float) -> None:
        nonlocal now
        cold = calls[-1:] != [which]
        calls.append(which)
        now += (seconds + 0.01 * cold) * (3 if now > 0.6 else 1)

    first, second = median_seconds(lambda: take("a", 0.02), lambda: take("b", 0.01), shortest=0.0, least=5)
    assert second / first == pytest.approx(0.5)
    turns = re.findall("a+|b+", "".join(calls[4:]))
    assert [turn[0] for turn in turns] == list("ab" * 5) and min(map(len, turns)) > 1
