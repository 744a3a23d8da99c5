"""How a command talks: results to standard output in one of three forms, everything else to standard error."""

from __future__ import annotations

import io
import json
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from graphprune.cli.argument_names import commands_for
from graphprune.cli.option_groups import OptionGroup, flag, usage_error
from graphprune.cli.output_failure import writing_output
from graphprune.cli.presets import use_preset
from graphprune.errors import GraphpruneError

OUTPUT_PANEL = "Output"
Json = Annotated[bool, flag("--json", help="print the result as JSON", panel=OUTPUT_PANEL)]
Quiet = Annotated[bool, flag("--quiet", "-q", help="print only the paths of what was written", panel=OUTPUT_PANEL)]
Debug = Annotated[bool, flag("--debug", help="show the traceback of an error", panel=OUTPUT_PANEL)]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="FILE[:NAME]",
        help="options from a TOML file, by their names; the command line wins",
        rich_help_panel=OUTPUT_PANEL,
        callback=use_preset,
        is_eager=True,
    ),
]


@dataclass
class Output(OptionGroup):
    """What every command is given: it prints the result, notices and progress as the options say."""

    json: Json = False
    quiet: Quiet = False
    debug: Debug = False
    preset: Preset = None

    def __post_init__(self) -> None:
        if self.json and self.quiet:
            raise usage_error("--json: given together with --quiet; give one of them")
        self._results: TextIO = sys.stdout

    def result(
        self,
        parts: Callable[[], Iterable[Any]],
        data: Callable[[], Mapping[str, Any] | str],
        *written: Path | None,
    ) -> None:
        """Print the result in the form that is asked for, which is the only one that is made.

        Args:
            parts: for people: tables of graphprune, and what else prints itself.
            data: for programs: JSON data, or JSON.
            written: what is left on disk.
        """
        if self.json:
            found = data()
            shown: list[Any] = [found if isinstance(found, str) else json.dumps(found, indent=2)]
        else:
            shown = list(filter(None, written)) if self.quiet else list(parts())
        with redirect_stdout(self._results), writing_output():
            _print_parts(shown)

    def note(self, text: str) -> None:
        """Say something that helps, but is no part of the result."""
        if not self.quiet:
            print(text, file=sys.stderr)

    def warn(self, text: str) -> None:
        """Say something that may be wrong."""
        from rich.text import Text

        from graphprune.cli.consoles import PipedConsole

        label = Text("graphprune: warning: ", "bold yellow")
        PipedConsole(stderr=True).print(label, Text(text), sep="", soft_wrap=True)

    @contextmanager
    def stage(self, text: str) -> Iterator[None]:
        """Show what takes long, and for how long, on a terminal; work that can be counted has a bar of its own."""
        if self.quiet or not sys.stderr.isatty():
            yield
            return
        shown = _Delayed(text)
        try:
            yield
        finally:
            shown.stop()

    def fail(self, text: str) -> None:
        """Say why the exit code is 1, where there is a result all the same."""
        print(f"graphprune: error: {text}", file=sys.stderr)

    @contextmanager
    def settings(self) -> Iterator[None]:
        """Warnings of graphprune as lines on standard error while a command runs, and what code of the user prints.

        Folders that are found in the meantime leave the import path.
        """
        import warnings

        plain = redirect_stderr(_Plain(sys.stderr)) if self.quiet else nullcontext()
        with warnings.catch_warnings(), _same_path(), plain, redirect_stdout(sys.stderr):
            warnings.simplefilter("default")
            for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
                warnings.simplefilter("ignore", category)  # news to those who write libraries
            warnings.showwarning = lambda message, category, *_: self._show_warning(message, category)
            yield

    def _show_warning(self, message: Warning | str, category: type[Warning]) -> None:
        own = category.__module__ == GraphpruneError.__module__
        self.warn(str(message)) if own else self.note(f"{category.__name__}: {message}")


@contextmanager
def _same_path() -> Iterator[None]:
    """Leave the import path as it was."""
    before = list(sys.path)
    try:
        yield
    finally:
        sys.path[:] = before


@contextmanager
def bars_for_people() -> Iterator[None]:
    """Let Transformers show bars only where somebody looks at standard error."""
    if sys.stderr.isatty() or find_spec("transformers") is None:
        yield
        return
    logging: Any = import_module("transformers.utils.logging")
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


class _Plain(io.TextIOBase):
    """Standard error as if it were no terminal, so that libraries show no progress."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(text)

    def flush(self) -> None:
        if not self._stream.closed:  # Python flushes once more when it is done with this
            self._stream.flush()


class _Delayed:
    """A line with a clock that appears after a while."""

    AFTER = 2.0
    """Seconds."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._done = False
        self._progress: Any = None
        self._lock = threading.Lock()
        self._timer = threading.Timer(self.AFTER, self._start)
        self._timer.daemon = True
        self._timer.start()

    def _start(self) -> None:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        with self._lock:
            if self._done:
                return
            columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._progress.add_task(self._text, total=None)
            self._progress.start()

    def stop(self) -> None:
        """Remove it, or let it never appear."""
        self._timer.cancel()
        with self._lock:
            self._done = True
            if self._progress is not None:
                self._progress.stop()


def _print_parts(parts: Iterable[Any]) -> None:
    from graphprune.utils.tables import Table

    for part in parts:
        if isinstance(part, Table):
            _print_table(part)
        else:
            print(part)


def _print_table(table: Any) -> None:
    from graphprune.cli.consoles import PipedConsole
    from graphprune.cli.tables import terminal_table

    PipedConsole().print(terminal_table(table))


def complain(error: BaseException, command: Callable[..., int]) -> None:
    """Print an error that a command does not expect to handle."""
    print(f"graphprune: error: {_said(error)}", file=sys.stderr)
    if isinstance(error, GraphpruneError) and (instead := commands_for(error, command)):
        print(f"  here:   {instead}", file=sys.stderr)


def _said(error: BaseException) -> str:
    if isinstance(error, GraphpruneError) or (isinstance(error, OSError) and not _line_of(error)):
        return str(error)
    if isinstance(error, SystemExit):
        code = _line_of(error) or "code that was run"
        return f"{code} ended the program (sys.exit({error.code!r})); let it return or raise instead"
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "allocate" in str(error)):
        return f"there is not enough memory: {str(error).partition(chr(10))[0]}"
    at = f", at {line}" if (line := _line_of(error)) else ""
    return f"{type(error).__name__}: {error}{at} (unexpected: run with --debug for the traceback)"


def _line_of(error: BaseException) -> str:
    """The line of the user's that an error is from; empty: it is from none."""
    from graphprune.tracing.places import raised_at

    return raised_at(error)
