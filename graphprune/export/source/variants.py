"""Instances of one class with other numbers of layers (a block with and without an expansion): one constructor each."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from graphprune.export.source.expressions import NO_VALUE, Display, Expression, Invocation
from graphprune.export.source.initializers import Initializer

_MOST_VARIANTS = 4
_FEWEST_EACH = 2
"""With fewer instances to a variant, their layers are better written where they are built."""


def variants(initializers: Sequence[Initializer], changing: Collection[str], few_each: bool) -> list[list[int]]:
    """The numbers of the initializers that have the same layers, the largest group first, or all together.

    Args:
        initializers: of all instances of a class.
        changing: the names of classes that have variants themselves.
        few_each: one instance is enough for a variant.
    """
    together = [list(range(len(initializers)))]
    shared = _always_there(initializers)
    groups: dict[object, list[int]] = {}
    for number, initializer in enumerate(initializers):
        groups.setdefault(_form(initializer, shared, changing), []).append(number)
    each = 1 if few_each else _FEWEST_EACH
    few = 1 < len(groups) <= _MOST_VARIANTS and len(initializers) >= each * len(groups)
    return sorted(groups.values(), key=len, reverse=True) if few else together


def _always_there(initializers: Sequence[Initializer]) -> set[str]:
    """The submodules that all have; one that some lack is an argument that may be None."""
    found = [{n for n, s in i.statements.items() if s.kind == "module" and s.value != NO_VALUE} for i in initializers]
    return set.intersection(*found)


def _form(initializer: Initializer, shared: set[str], changing: Collection[str]) -> object:
    values = [s.value for name, s in initializer.statements.items() if name in shared]
    children = [initializer.children] if initializer.children is not None else []
    return tuple(_entries(value, changing) for value in (*children, *values))


def _entries(value: Expression, changing: Collection[str]) -> object:
    """How many layers containers hold, at every depth, and which variants of classes."""
    if isinstance(value, Display):
        return (value.keys, *(_entries(item, changing) for item in value.items))
    if not isinstance(value, Invocation):
        return None
    name = value.callee if value.callee in changing else None
    return (name, *(_entries(a.value, changing) for a in value.arguments if not a.name))
