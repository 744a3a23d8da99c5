"""The tables of options in docs/command_line.md.

``python -m tests.cli.option_tables`` writes them anew: a command stands between two comments that name it, and so does
a group of options that commands share.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from graphprune.cli.bundles import BundleOptions
from graphprune.cli.calibration_options import CalibrationOptions
from graphprune.cli.commands import COMMANDS, load_command
from graphprune.cli.model_options import ModelOptions, WeightOptions
from graphprune.cli.option_groups import OptionGroup
from graphprune.cli.output import Output
from graphprune.cli.plan_options import PlanOptions
from graphprune.cli.prunable import PrunableOptions

DOCUMENT = Path(__file__).parents[2] / "docs" / "command_line.md"
SHARED: dict[str, type[OptionGroup]] = {
    one.__name__: one for one in (PrunableOptions, Output, CalibrationOptions, PlanOptions)
}
TITLES = {
    "ModelOptions": "a-model-by-name",
    "PrunableOptions": "a-model-by-name",
    "WeightOptions": "a-model-by-name",
    "BundleOptions": "a-model-by-name",
    "Output": "output",
    "CalibrationOptions": "data",
    "PlanOptions": "plan",
}
"""By group the heading that it stands under."""
_PARTS = (ModelOptions, WeightOptions, BundleOptions)
"""Groups whose options another one has, too."""
WORDS = {"a-model-by-name": "the model", "output": "output", "data": "data", "plan": "a plan"}
MARK = re.compile(r"<!-- (\w[\w-]*) -->\n.*?<!-- end -->\n", re.DOTALL)


def function_of(command: str) -> Any:
    """The function of a command."""
    module, _, name = COMMANDS[command][0].partition(":")
    return getattr(import_module(f"graphprune.cli.{module}"), name)


def examples_of(command: str) -> list[str]:
    """The command lines that the help of a command shows."""
    examples = inspect.cleandoc(function_of(command).__doc__).partition("\n\nExamples:\n")[2]
    return [line.strip() for line in examples.splitlines() if line.strip()]


def shared_by(command: str) -> list[type[OptionGroup]]:
    """The groups of options that a command has in common with others."""
    annotations = [one.annotation for one in inspect.signature(function_of(command), eval_str=True).parameters.values()]
    return [one for one in annotations if one in (*SHARED.values(), *_PARTS)]


def own_options(command: str) -> list[Any]:
    """The options that are a command's own."""
    shared = {one.name for group in shared_by(command) for one in group.parameters()}
    return [one for one in load_command(command).params if one.name not in (*shared, "help")]


def options_of(group: str) -> list[Any]:
    """The options of a group, as a command has them."""
    command = next(name for name in COMMANDS if SHARED[group] in shared_by(name))
    names = {one.name for one in SHARED[group].parameters()}
    return [one for one in load_command(command).params if one.name in names]


def table(options: Iterable[Any]) -> str:
    """Options with what they take and what they mean."""
    rows = [f"| {_name(one)} | {_text(one)} |" for one in options]
    return "\n".join(["| option | meaning |", "|---|---|", *rows]) + "\n"


def _name(option: Any) -> str:
    if option.param_type_name == "argument":
        return f"`{option.metavar}`"
    flags = ", ".join(f"`{flag}`" for flag in option.opts)
    return f"{flags} `{option.metavar}`".replace("|", r"\|") if option.metavar else flags


def _text(option: Any) -> str:
    text = option.help.replace("\\[", "[").replace("|", r"\|")
    return f"{text}; default: {option.default}" if option.show_default and _tells(option.default) else text


def _tells(default: Any) -> bool:
    return default not in (None, False, (), []) and not callable(default)


def section(command: str) -> str:
    """A command: what it does, how it is called, its own options, and those that it shares."""
    text = inspect.cleandoc(function_of(command).__doc__).partition("\n\nExamples:\n")[0]
    text = re.sub(r"(?<!\n)\n(?!\n)", " ", text)
    titles = dict.fromkeys(TITLES[group.__name__] for group in shared_by(command))
    links = ", ".join(f"[{WORDS[title]}](#{title})" for title in titles)
    calls = "\n".join(examples_of(command))
    return (
        f"### {command}\n\n{text}\n\n```console\n{calls}\n```\n\n{table(own_options(command))}\nAnd those of {links}.\n"
    )


def renewed(text: str) -> str:
    """The document with its tables as they should be."""

    def replacement(found: re.Match[str]) -> str:
        name = found[1]
        made = section(name) if name in COMMANDS else table(options_of(name))
        return f"<!-- {name} -->\n{made}<!-- end -->\n"

    return MARK.sub(replacement, text)


if __name__ == "__main__":
    DOCUMENT.write_text(renewed(DOCUMENT.read_text()))
