"""Forward passes in threads: they pause, go on, and end when they are closed, wherever that finds them."""

from __future__ import annotations

import threading

import pytest

from graphprune.reconstruction.paused_forward import PausedForward


def counting(seen: list[int], pauses: int = 3) -> PausedForward:
    def run(forward: PausedForward) -> None:
        for number in range(pauses):
            seen.append(number)
            forward.wait()

    return PausedForward(run)


def test_a_pass_pauses_and_goes_on() -> None:
    seen: list[int] = []
    forward = counting(seen)
    assert [forward.advance() for _ in range(5)] == [True, True, True, False, False]
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_closed_pass_leaves_no_thread(steps: int) -> None:
    before, seen = threading.active_count(), []
    forward = counting(seen)
    for _ in range(steps):
        forward.advance()
    forward.close()
    assert (threading.active_count(), len(seen), forward.advance()) == (before, steps, False)


def test_a_thread_whose_start_was_interrupted_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: threading.Thread) -> None:
        raise KeyboardInterrupt

    forward = counting([])
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            forward.advance()
    forward.close()
    assert forward.ended


def test_what_a_pass_raises_is_raised_by_who_waits_for_it() -> None:
    def run(forward: PausedForward) -> None:
        forward.wait()
        raise OSError("a lost disk")

    forward = PausedForward(run)
    assert forward.advance()
    with pytest.raises(OSError, match="a lost disk"):
        forward.advance()
    assert not forward.advance()
