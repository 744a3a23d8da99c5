"""The program: what is common to all commands, and what its exit code is."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import graphprune
from graphprune.cli.commands import COMMANDS, is_of_command, listed_commands, load_command
from graphprune.cli.option_groups import flag
from graphprune.cli.output_failure import OutputFailure, discard_output, writing_output

OK, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130

UsageError: Any = typer.BadParameter.__mro__[1]
"""Base of what typer raises for wrong usage. Versions of typer differ in the module that has it."""


class CommandGroup(TyperGroup):
    """The commands, of which only the one that is called is imported."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if command is None else load_command(command.name or ""), rest


def run_program(argv: Sequence[str] | None = None) -> int:
    """What :func:`graphprune.cli.main` does, once it is imported."""
    _open_streams()
    try:
        with _interruptible():
            arguments = None if argv is None else list(argv)
            found = make_program().main(args=arguments, prog_name="graphprune", standalone_mode=False)
            with writing_output():
                sys.stdout.flush()
            return found if isinstance(found, int) else OK
    except UsageError as error:
        print(usage_message(error), file=sys.stderr)
        return WRONG_USAGE
    except SystemExit as ended:  # what prints help leaves so where its reader has seen enough
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        return OK
    except OutputFailure as failure:
        return _without_output(failure.cause)
    except OSError as error:
        if is_of_command(error):
            raise
        return _without_output(error)


def _open_streams() -> None:
    """Let output that somebody closed go nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))


def make_program() -> Any:
    """The program with its commands."""
    app = typer.Typer(cls=CommandGroup, rich_markup_mode="rich", name="graphprune")
    app.callback(help=_HELP, epilog=_EPILOG)(_program)
    program: Any = typer.main.get_command(app)
    for command in listed_commands():
        program.add_command(command)
    return program


_HELP = "Structured pruning of PyTorch models: trace, plan, apply, verify."
_EPILOG = (
    "Examples:\n\ngraphprune inspect torchvision:resnet18\n\n"
    "graphprune prune torchvision:resnet18 --pretrained --ratio 0.3 -o slim\n\n"
    "graphprune export slim --to onnx -o slim.onnx\n\n"
    "Exit codes: 0 it worked; 1 it failed or the verification did; 2 wrong usage; 130 interrupted."
)


def _show_version(shown: bool) -> None:
    if shown:
        print(f"graphprune {graphprune.__version__}")
        raise typer.Exit


def _program(
    version: Annotated[
        bool, flag("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """The options of the program itself."""


# ---------------------------------------------------------------- wrong usage


def usage_message(error: Any) -> str:
    """What is wrong, which option it is about and what that takes, and where to read more."""
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "graphprune"
    return f"{where}: error: {_what(error)}\ntry: {where} --help"


def _what(error: Any) -> str:
    parameter = getattr(error, "param", None)
    said = error.message or "is missing"
    if parameter is None or said.startswith("--"):
        return said if isinstance(error, typer.BadParameter) else _said_by_typer(error)
    help = parameter.help.replace("\\[", "[")
    said = f"{said[:1].lower()}{said[1:]}"
    if parameter.param_type_name == "argument":
        return f"{parameter.metavar}: {said}; it is {help}"
    name = "/".join(parameter.opts)
    return f"{name}: {said}; {name} takes {parameter.metavar or 'a value'}: {help}"


def _said_by_typer(error: Any) -> str:
    text = error.format_message()
    text = f"{text[:1].lower()}{text[1:]}"
    if text == "missing command.":
        return f"missing command; these are {', '.join(COMMANDS)}"
    if not hasattr(error, "option_name") or not text.startswith("no such option"):
        return text
    if isinstance(error.ctx.command, TyperGroup):
        return f"{text}; options of a command stand behind its name: graphprune COMMAND ... {error.option_name}"
    return text if error.possibilities else f"{text}{_with_this_letter(error)}"


def _with_this_letter(error: Any) -> str:
    """Options that a single letter may stand for."""
    letter = error.option_name.lstrip("-")[:1]
    options = [flag for one in error.ctx.command.params for flag in one.opts if flag.startswith(f"--{letter}")]
    return f" (Possible options: {', '.join(sorted(options))})" if options else ""


# ---------------------------------------------------------------- interruption


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let an interruption end what runs, once; the files that it leaves are removed undisturbed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, _interrupt())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt() -> Callable[..., None]:
    """What a signal calls: it interrupts once a second, so that pressing keys again does not disturb the tidying."""
    last = -math.inf

    def interrupt(*_: object) -> None:
        nonlocal last
        before, last = last, time.monotonic()
        if last - before > 1:
            raise KeyboardInterrupt

    return interrupt


def _without_output(error: OSError) -> int:
    """Say why there is no output, unless its reader has seen enough, and leave nothing to be written at the end."""
    discard_output()
    if isinstance(error, BrokenPipeError):
        return OK
    print(f"graphprune: error: standard output: {error.strerror}", file=sys.stderr)
    return FAILED
