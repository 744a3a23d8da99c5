"""Messages of the library name arguments of functions; which options of a command these are."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection
from typing import Any

from graphprune.cli.option_groups import flattened
from graphprune.errors import GraphpruneError

_OTHERWISE = {"example_inputs": "input"}
"""Options that have other names than the arguments of functions."""
_NAMED = re.compile(r"(?<![\w.])([a-z]\w*)=(?!=)")
"""An argument in a message, as ``macs=0.5`` or ``loss_fn=``."""


def options_for(error: GraphpruneError, command: Callable[..., Any]) -> str:
    """Which options of a command stand for the arguments that a message advises; empty if it advises none of them.

    >>> options_for(GraphpruneError("no", do="pass macs=0.5, or outputs="), lambda *, macs: 0)
    '--macs for macs='
    """
    own = inspect.signature(flattened(command)).parameters
    named = dict.fromkeys(_NAMED.findall(f"{error.needed}; {error.do}"))
    return ", ".join(f"{option} for {name}=" for name in named if (option := _option(name, own)))


def _option(argument: str, own: Collection[str]) -> str | None:
    name = _OTHERWISE.get(argument, argument)
    return f"--{name.replace('_', '-')}" if name in own else None
