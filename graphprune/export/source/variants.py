"""Instances of one class with other numbers of layers (a block with and without an expansion): one constructor each."""

from __future__ import annotations

from collections.abc import Sequence

from graphprune.export.source.expressions import NO_VALUE, Display, Expression, Invocation
from graphprune.export.source.initializers import Initializer

_MOST_VARIANTS = 4
_FEWEST_EACH = 2
"""With fewer instances to a variant, their layers are better written where they are built."""


def variants(initializers: Sequence[Initializer]) -> list[list[int]]:
    """The numbers of the initializers that have the same layers, the largest group first, or all together."""
    together = [list(range(len(initializers)))]
    shared = _always_there(initializers)
    groups: dict[object, list[int]] = {}
    for number, initializer in enumerate(initializers):
        groups.setdefault(_form(initializer, shared), []).append(number)
    few = len(groups) <= _MOST_VARIANTS and len(initializers) >= _FEWEST_EACH * len(groups)
    return sorted(groups.values(), key=len, reverse=True) if few and len(groups) > 1 else together


def _always_there(initializers: Sequence[Initializer]) -> set[str]:
    """The submodules that all have; one that some lack is an argument that may be None."""
    found = [{n for n, s in i.statements.items() if s.kind == "module" and s.value != NO_VALUE} for i in initializers]
    return set.intersection(*found)


def _form(initializer: Initializer, shared: set[str]) -> object:
    values = [s.value for name, s in initializer.statements.items() if name in shared]
    children = [initializer.children] if initializer.children is not None else []
    return tuple(_entries(value) for value in (*children, *values))


def _entries(value: Expression) -> object:
    """How many layers containers hold, at every depth."""
    if isinstance(value, Display):
        return (value.keys, *map(_entries, value.items))
    if isinstance(value, Invocation) and any(not a.name for a in value.arguments):
        return tuple(_entries(a.value) for a in value.arguments)
    return None
