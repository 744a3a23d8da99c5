"""Inner widths of exchangeable parts that the model states beside them, and that forward does not read.

A module that keeps parts by name (adapters of low rank, branches) keeps their sizes by name too: ``rank["default"]``
is the width inside ``down["default"]`` and ``up["default"]``. Files, factors and configurations go by that number,
which forward does not read, so nothing would tell them that it has changed: the width stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch import nn

from graphprune.graph.groups import Units
from graphprune.rules.labels import LabelArray
from graphprune.tracing.sizes import attributes_of
from graphprune.tracing.tracer import Trace
from graphprune.utils.modules import named_modules


@dataclass(frozen=True)
class _Stated:
    """A number that a module keeps under the name of parts.

    Attributes:
        place: ``"layer.rank['default']"``.
        value: the number.
        parts: prefixes of the parameters of these parts.
    """

    place: str
    value: int
    parts: tuple[str, ...]

    def holds(self, parameter: str) -> bool:
        """Is a parameter in one of the parts?"""
        return f"{parameter}.".startswith(self.parts)


def fix_stated_sizes(model: nn.Module, trace: Trace, units: Units) -> bool:
    """Fix the units of groups that lie within parts whose size is stated; was there any?"""
    statements = list(_statements(model))
    if not statements:
        return False
    read = {attribute.path for expr in trace.sizes.expressions() for attribute in attributes_of(expr)}
    known = [stated for stated in statements if stated.place not in read]
    labels, found = units.labeling.labels, False
    for group in units.groups:
        for stated in known:
            if group.units == stated.value and all(stated.holds(axis.parameter) for axis in group.axes):
                found = True
                first = next(axis for axis in units.axes if axis.name == group.axes[0])
                labels.node_index = first.node_index
                entries = LabelArray(np.arange(first.start, first.start + first.size))
                labels.fix([entries], f"stated by {stated.place}, which forward does not read")
                break
    return found


_HOLDERS = (nn.ModuleDict, nn.ParameterDict)


def _statements(model: nn.Module) -> Iterator[_Stated]:
    for path, module in named_modules(model):
        prefix = f"{path}." if path else ""
        if not module._modules:
            continue
        kept = {n: m for n, m in module._modules.items() if isinstance(m, _HOLDERS)}
        tables = {n: v for n, v in vars(module).items() if type(v) is dict and not n.startswith("_")} if kept else {}
        for name, table in tables.items():
            for key, value in table.items():
                if type(value) is int and type(key) is str:
                    parts = tuple(f"{prefix}{kind}.{key}." for kind, holder in kept.items() if key in holder)
                    yield _Stated(f"{prefix}{name}[{key!r}]", value, parts)
