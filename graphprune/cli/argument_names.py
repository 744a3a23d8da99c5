"""Messages of the library name arguments and functions; which options and commands these are."""

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

_CALLS = {
    re.compile(r"\bprint\(graph\)"): "graphprune inspect SPEC",
    re.compile(r"\bgraph\.explain(\([^)]*\))?"): "graphprune explain SPEC NAME",
    re.compile(r"\bgraph\.why_frozen(\([^)]*\))?|\bgraph\.frozen\b"): "graphprune explain SPEC NAME --why-frozen",
}
"""Calls in a message, and the commands that do the same."""


def commands_for(error: GraphpruneError, command: Callable[..., Any]) -> str:
    """Which options and commands stand for the arguments and calls that a message advises; empty if it advises none.

    >>> commands_for(GraphpruneError("no", do="pass macs=0.5, or outputs="), lambda *, macs: 0)
    '--macs for macs='
    >>> commands_for(GraphpruneError("no", do="graph.explain(name) says why"), lambda: 0)
    'graphprune explain SPEC NAME for graph.explain(name)'
    """
    found = ((instead, call.search(error.do)) for call, instead in _CALLS.items())
    calls = [f"{instead} for {call[0]}" for instead, call in found if call is not None]
    return ", ".join([*_options(error, command), *calls])


def _options(error: GraphpruneError, command: Callable[..., Any]) -> list[str]:
    own = inspect.signature(flattened(command)).parameters
    named = dict.fromkeys(_NAMED.findall(f"{error.needed}; {error.do}"))
    return [f"{option} for {name}=" for name in named if (option := _option(name, own))]


def _option(argument: str, own: Collection[str]) -> str | None:
    name = _OTHERWISE.get(argument, argument)
    return f"--{name.replace('_', '-')}" if name in own else None
