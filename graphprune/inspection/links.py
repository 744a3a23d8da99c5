"""What the operations of a program do to the channels of a group: the reasons why they go together, in words."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from graphprune.graph.couplings import Coupling
from graphprune.inspection.wording import describe_place, layer_of, listed
from graphprune.rules.registry import has_trait, matmul_views, norm_of
from graphprune.rules.traits import Trait

_PARTS = {"groups": "groups", "experts": "experts"}
"""What a reshaped dimension is divided into, by role; else heads."""


def links_in_words(
    couplings: Iterable[Coupling], role: str, operators: Mapping[str, Any], consumed: Collection[str]
) -> list[str]:
    """A clause for everything that a line of the program does to the channels of a group, in all layers that run it.

    Args:
        couplings: what ties the axes of the group, in the order of execution.
        role: the group's.
        operators: operators by the names that couplings have for them.
        consumed: the axes of weights that meet an input.
    """
    found: dict[str, dict[str, None]] = {}
    for one in couplings:
        named = [axis for axis in (one.first, one.second) if "@" not in axis]
        inputs = [axis for axis in named if axis in consumed]
        if len(named) == 2 and inputs:
            clause, axes = "passes them to {}", inputs
        elif len(named) == 1:
            clause, axes = f"divides {{}} into {_PARTS.get(role, 'heads')}", named
        else:
            clause, axes = _clause(one.op, operators.get(one.op)), named
        layers = found.setdefault(f"{_escaped(describe_place(one.line))} {clause}", {})
        layers.update((_called(axis, len(named) == 1 and axis in consumed), None) for axis in axes)
    return [clause.format(listed(layers)) for clause, layers in found.items() if layers]


def _called(axis: str, as_input: bool) -> str:
    return f"{layer_of(axis)} (inputs)" if as_input else layer_of(axis)


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _clause(op: str, operator: Any) -> str:
    """What an operation does to two results or parameters whose channels are the same."""
    if has_trait(operator, Trait.ADDS):
        return "adds {}"
    if has_trait(operator, Trait.SUBTRACTS):
        return "subtracts {}"
    if has_trait(operator, Trait.SCALES, Trait.BATCHED_PRODUCT):
        return "multiplies {}"
    if norm_of(operator) is not None:
        return "normalizes {}"
    if matmul_views(operator):
        return "computes {}"
    return f"ties {{}} ({op})"
