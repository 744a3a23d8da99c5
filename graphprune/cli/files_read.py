"""Files that a command reads: nothing is written over them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from graphprune.cli.option_groups import usage_error
from graphprune.cli.user_files import files_of_module

_MAY_BE_FOLDERS = ("calibration", "data", "spec")
"""Options whose text may be a folder; a folder that happens to be called like the text of another one is not read."""


def check_unread(given: Mapping[str, Any]) -> None:
    """Usage is wrong if the file that is to be written is one that the command reads, whatever ``--force`` says.

    Args:
        given: the values of all options and arguments, by their names.
    """
    output = given.get("output")
    if output is None or not os.path.isfile(output):  # unlike Path.is_file, whatever the path is
        return
    places = {_real(output), _real(output.parent) / output.name}  # the entry of a folder may be a link to elsewhere
    folders = {folder for place in places for folder in place.parents}
    for name, value in given.items():
        values = [] if name == "output" else value if isinstance(value, list) else [value]
        for one in (one for one in values if isinstance(one, str | Path) and str(one)):
            if not places.isdisjoint(map(_real, _files(str(one)))):
                raise usage_error(f"-o {output}: is what this command reads ({one}); give another path")
            if not folders.isdisjoint(map(_real, _folders(name, one))):
                raise usage_error(f"-o {output}: is in a folder that this command reads ({one}); give a path elsewhere")


def _files(text: str) -> Iterator[Path]:
    """What may be read where an option has this text: a file, ``FILE:NAME`` or ``module:function``."""
    before = text.rpartition(":")[0]
    yield from map(Path, filter(None, (text, before)))
    if all(part.isidentifier() for part in before.split(".")):
        yield from files_of_module(before)


def _folders(name: str, value: str | Path) -> Iterator[Path]:
    """The folder that an option names, or that of the shards of an index that it names.

    Args:
        name: of the option.
        value: what it was given.
    """
    source, _, checkpoint = str(value).partition(":")
    if source == "hf" and checkpoint:
        yield Path(checkpoint)
    elif isinstance(value, Path) or name in _MAY_BE_FOLDERS:
        yield Path(value).parent if str(value).endswith(".index.json") else Path(value)


def _real(path: Path) -> Path:
    """Where a path leads; unlike :meth:`pathlib.Path.resolve` without an error where links lead in a circle."""
    return Path(os.path.realpath(path))
