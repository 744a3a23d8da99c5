"""Consoles of rich whose reader may go before everything is written."""

from __future__ import annotations

from rich.console import Console


class PipedConsole(Console):
    """A console that passes on that its reader is gone, where rich would end the process."""

    def on_broken_pipe(self) -> None:
        """Raise the error that rich is handling."""
        raise
