"""``module:function``: something of the user's that a command calls."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from graphprune.cli.option_groups import usage_error
from graphprune.cli.user_files import import_file, imports_of
from graphprune.errors import InputError, SpecError
from graphprune.utils.checks import did_you_mean


def check_reference(option: str, text: str) -> None:
    """Usage is wrong if it has another form, or names a file that is not there."""
    module, colon, name = text.rpartition(":")
    if not colon or not module or not name.replace(".", "").isidentifier():
        raise usage_error(f"{option}: {text!r} names no function; give module:function or path/to/file.py:function")
    if module.endswith(".py") and not Path(module).is_file():
        raise usage_error(f"{option}: the file {module} does not exist; give path/to/file.py:function")


def load_reference(option: str, text: str) -> Any:
    """What ``module:function`` or ``path/to/file.py:function`` names; modules beside the user are found.

    Raises:
        SpecError: it cannot be imported, or has nothing of this name.
    """
    module, _, name = text.rpartition(":")
    found = import_file(f"{option} {text}", Path(module)) if module.endswith(".py") else _import(option, text, module)
    for part in name.split("."):
        if not hasattr(found, part):
            near = did_you_mean(part, [one for one in dir(found) if not one.startswith("_")])
            raise SpecError(
                f"{option}: {module} has no {part!r}{near}",
                where=text,
                found=f"no {part!r} in {module}",
                needed="the name of a function",
                do="give module:function or path/to/file.py:function",
            )
        found = getattr(found, part)
    return found


def value_of(option: str, text: str, what: str) -> Any:
    """What a reference names, or returns if it can be called.

    Args:
        what: what a function of this option returns, in words.

    Raises:
        SpecError: it cannot be imported, or has nothing of this name.
        InputError: the function fails.
    """
    found = load_reference(option, text)
    if not callable(found):
        return found
    try:
        return found()
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{option}: {text}() failed with {type(error).__name__}",
            where=text,
            found=f"{type(error).__name__}: {error}",
            needed=f"a function without arguments that returns {what}",
            do="give another function, or mend this one",
        ) from error


def _import(option: str, text: str, module: str) -> Any:
    try:
        with imports_of(Path(module)):  # that is, in this folder
            return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise SpecError(
            f"{option}: {module} cannot be imported",
            where=text,
            found=f"{type(error).__name__}: {error}",
            needed="a module that is installed, or is in this folder",
            do="give another module, or path/to/file.py:function",
        ) from error
