"""What takes long is shown on a terminal, and nowhere else."""

from __future__ import annotations

import io
import sys
import time

import pytest

from graphprune.cli.output import Output, _Delayed


class Terminal(io.StringIO):
    """Standard error of someone who looks."""

    def isatty(self) -> bool:
        return True


def looked_at(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal in the place of standard error, while a test runs."""
    found = Terminal()
    monkeypatch.setattr(sys, "stderr", found)
    monkeypatch.setenv("TERM", "xterm")
    return found


def shown(out: Output, seconds: float, terminal: Terminal) -> str:
    """What a stage shows that takes some time."""
    with out.stage("tracing Net"):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and "tracing" not in terminal.getvalue():
            time.sleep(0.01)
    return terminal.getvalue()


def test_a_long_stage_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = looked_at(monkeypatch)
    monkeypatch.setattr(_Delayed, "AFTER", 0.01)
    assert "tracing Net" in shown(Output(), 10, terminal)


def test_a_short_stage_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = looked_at(monkeypatch)
    assert shown(Output(), 0.02, terminal) == ""


def test_quiet_shows_nothing_and_no_library_sees_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = looked_at(monkeypatch)
    monkeypatch.setattr(_Delayed, "AFTER", 0.01)
    out = Output(quiet=True)
    with out.settings():
        assert not sys.stderr.isatty()
        assert shown(out, 0.05, terminal) == ""
        print("an error", file=sys.stderr)
    assert terminal.getvalue() == "an error\n" and sys.stderr.isatty()
