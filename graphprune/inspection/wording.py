"""Places, layers, amounts and roles in words."""

from __future__ import annotations

import linecache
import re
from collections.abc import Iterable
from pathlib import Path

from graphprune.graph.cost import Cost
from graphprune.tracing.sizes import Line
from graphprune.utils.repeated_names import merge_names
from graphprune.utils.tables import human

_INSTALLED = re.compile(r"/\S*?/(?:site|dist)-packages/")

_OF_LAYERS = ("weight", "bias", "running_mean", "running_var")

UNITS = {
    "mlp": ("channel", "channels that no residual sum shares"),
    "width": ("channel", "channels that residual sums share: every layer that adds to the sum or reads it has them"),
    "heads": ("head", "attention heads"),
    "kv_groups": ("key/value group", "heads of keys and values, each with the query heads that share it"),
    "head_width": ("channel", "channels within heads"),
    "groups": ("group", "groups of a convolution or normalization"),
    "experts": ("expert", "experts"),
}
"""By role, what one unit is called, and what the units are."""


def shorten_paths(text: str) -> str:
    """A text with the paths in it relative to the current folder or to where packages are installed."""
    return _INSTALLED.sub("", text).replace(f"{Path.cwd()}/", "")


def describe_place(line: Line | None) -> str:
    """``"`x + y` at net.py:12"``: the source of a line, and where it is."""
    if line is None:
        return "torch's own code"
    source = linecache.getline(*line).strip()
    place = shorten_paths(f"{line[0]}:{line[1]}")
    return f"`{source}` at {place}" if source else place


def listed(names: Iterable[str], most: int = 12) -> str:
    """Names in a sentence, those of repeated layers together; the rest of a long list as a number."""
    merged = merge_names(list(dict.fromkeys(names)))
    more = [f"{len(merged) - most} more"] if len(merged) > most else []
    return joined([*merged[:most], *more])


def joined(parts: Iterable[str]) -> str:
    """``"a, b and c"``."""
    *first, last = list(parts)
    return f"{', '.join(first)} and {last}" if first else last


def layer_of(axis: str) -> str:
    """The layer that has a parameter axis; the parameter where it is no layer's usual one.

    >>> layer_of("layer1.0.bn1.running_var[0]"), layer_of("encoder.pos_embedding[2]")
    ('layer1.0.bn1', 'encoder.pos_embedding')
    """
    parameter = axis.rpartition("[")[0]
    module, _, tensor = parameter.rpartition(".")
    return module if module and tensor in _OF_LAYERS else parameter


def amounts(saved: Cost, whole: Cost) -> str:
    """``"1.85 M MACs (0.05%), 5.6 k parameters (0.02%) and 22.5 kB"``."""
    parts = [
        f"{human(saved.macs)} MACs ({_share(saved.macs, whole.macs)})",
        f"{saved.params:,} parameters ({_share(saved.params, whole.params)})",
        human(saved.bytes, "B"),
    ]
    return joined(parts)


def _share(part: int, whole: int) -> str:
    fraction = part / max(whole, 1)
    return "below 0.01%" if 0 < fraction < 1e-4 else f"{fraction:.2%}"
