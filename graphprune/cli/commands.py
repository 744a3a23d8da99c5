"""The commands by name, and how one is made from its function.

To add a command, write its function in a file of its own, and a line in :data:`COMMANDS`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from importlib import import_module
from inspect import cleandoc
from traceback import print_exception, walk_tb
from typing import Any

import typer
from typer.core import TyperCommand

from graphprune.cli.option_groups import flattened
from graphprune.cli.output import Output, complain
from graphprune.cli.output_failure import OutputFailure

LOOK, SMALLER, AFTERWARDS = "Look at a model", "Make it smaller", "With a smaller model"

COMMANDS: dict[str, tuple[str, str, str]] = {
    "inspect": ("inspecting:inspect_command", LOOK, "show what can be pruned, and why the rest cannot"),
    "explain": ("explaining:explain_command", LOOK, "say what goes with a layer, what a channel saves, why some stay"),
    "measure": ("measuring:measure_command", LOOK, "show what models are and take: sizes, zeros, MACs, memory, time"),
    "advise": ("advising:advise_command", LOOK, "say how to prune a model, and why, from what is measured on it"),
    "bench": ("benching:bench_command", LOOK, "time models in turns: the dense one, and slim ones"),
    "report": ("reporting:report_command", LOOK, "write a page for a browser about a model and a plan"),
    "plan": ("planning:plan_command", SMALLER, "show what would be removed, and write it to a file"),
    "prune": ("pruning:prune_command", SMALLER, "write a smaller model"),
    "prune-checkpoint": (
        "checkpoint_pruning:prune_checkpoint_command",
        SMALLER,
        "prune a checkpoint that is larger than memory, from folder to folder",
    ),
    "compact": ("compacting:compact_command", SMALLER, "write a smaller model without channels that are zero already"),
    "sparsify": ("sparsifying:sparsify_command", SMALLER, "set single weights to zero, and write a small file"),
    "verify": ("verifying:verify_command", AFTERWARDS, "compare a slim model with the masked original"),
    "repair": ("repairing:repair_command", AFTERWARDS, "let what is left make up for what was removed, without labels"),
    "finetune": ("finetuning:finetune_command", AFTERWARDS, "train a model again"),
    "export": ("exporting:export_command", AFTERWARDS, "write a slim model for where graphprune is not installed"),
}
"""By name: where its function is in ``graphprune.cli`` (it is imported when the command is called), the panel of the
help that lists it, and what it does."""

Function = Callable[..., int]


def load_command(name: str) -> Any:
    """The command of this name."""
    place, _, summary = COMMANDS[name]
    module, _, function = place.partition(":")
    return make_command(name, summary, getattr(import_module(f"graphprune.cli.{module}"), function))


def make_command(name: str, summary: str, function: Function) -> Any:
    """A command of typer from a function whose options are its parameters, and whose docstring is its help.

    The function returns the exit code. Its first parameter is the :class:`Output`; its docstring ends in ``Examples:``.
    """
    help, _, examples = cleandoc(function.__doc__ or "").partition("\n\nExamples:\n")
    app = typer.Typer(add_completion=False, rich_markup_mode="rich")
    lines = [line.strip() for line in examples.splitlines() if line.strip()]
    epilog = "\n\n".join(["Examples:", *(line.replace("[", r"\[") for line in lines)])
    decorate = app.command(name, help=help, short_help=summary, epilog=epilog)
    decorate(_keeping_sources(flattened(_answering(function))))
    return typer.main.get_command(app)


def listed_commands() -> list[TyperCommand]:
    """Every command as the help lists it, without importing its function."""
    return [TyperCommand(name, help=summary, rich_help_panel=panel) for name, (_, panel, summary) in COMMANDS.items()]


def is_of_command(error: BaseException) -> bool:
    """Did a command raise it, and not what prints help?"""
    return any(frame.f_globals is globals() for frame, _ in walk_tb(error.__traceback__))


def _keeping_sources(function: Function) -> Function:
    """The function, which is not called if it would write over what it reads."""

    @wraps(function)
    def run(**given: Any) -> int:
        from graphprune.cli.files_read import check_unread  # loads torch, which help and version do without

        check_unread(given)
        return function(**given)

    return run


def _answering(function: Function) -> Function:
    """The function with a message and exit code 1 in place of an error."""

    def run(out: Output, **given: Any) -> int:
        try:
            with out.settings():
                return function(out, **given)
        except (typer.BadParameter, OutputFailure):
            raise
        except (Exception, SystemExit) as error:
            if out.debug and not isinstance(error, SystemExit | BrokenPipeError):
                raise
            with suppress(OSError):  # whoever reads standard error has seen enough, or its disk is full
                if out.debug and isinstance(error, BrokenPipeError):  # typer would take it for one of its own output
                    print_exception(error)
                complain(error, function)
            return 1

    run.__wrapped__ = function  # type: ignore[attr-defined]
    run.__name__ = function.__name__
    return run
