"""Files that a command reads: nothing is written over them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from graphprune.cli.option_groups import usage_error


def check_unread(given: Mapping[str, Any]) -> None:
    """Usage is wrong if the file that is to be written is one that the command reads, whatever ``--force`` says.

    Args:
        given: the values of all options and arguments, by their names.
    """
    output = given.get("output")
    if output is None or not output.is_file():
        return
    for name, value in given.items():
        texts = [] if name == "output" else value if isinstance(value, list) else [value]
        for text in map(str, filter(None, texts)):
            if any(Path(one).resolve() == output.resolve() for one in (text, text.rpartition(":")[0])):
                raise usage_error(f"-o {output}: is what this command reads ({text}); give another path")
