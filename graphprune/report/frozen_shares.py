"""What cannot be pruned, by reason, and how many of the parameters that concerns."""

from __future__ import annotations

from math import prod

from msgspec import Struct

from graphprune.graph.analysis import Analysis
from graphprune.graph.frozen import frozen_axes
from graphprune.graph.groups import Frozen
from graphprune.report.module_tree import ModuleTree
from graphprune.report.short_paths import without_folders


class FrozenAxis(Struct, frozen=True, array_like=True):
    """``count`` of ``size`` entries of an axis cannot go, and where in the code that is said."""

    axis: str
    count: int
    size: int
    place: str


class FrozenReason(Struct, frozen=True):
    """Axes that cannot be pruned for one reason, and the fraction of all parameters that lies along them."""

    why: str
    params: float
    axes: list[FrozenAxis]


class FreeShares(Struct, frozen=True):
    """Fractions of all parameters: in tensors of which all axes with channels can shrink, some can, none can."""

    whole: float
    part: float
    none: float


def frozen_reasons(graph: Analysis, tree: ModuleTree) -> list[FrozenReason]:
    """What is frozen, the reason that concerns most parameters first."""
    by_reason: dict[str, list[Frozen]] = {}
    for one in frozen_axes(graph):
        by_reason.setdefault(without_folders(one.why.text), []).append(one)
    found = [
        FrozenReason(
            why,
            round(_share_along(items, tree), 5),
            [FrozenAxis(f"{one.axis}", one.count, one.size, without_folders(one.why.place)) for one in items],
        )
        for why, items in by_reason.items()
    ]
    return sorted(found, key=lambda one: -one.params)


def free_shares(graph: Analysis, tree: ModuleTree) -> FreeShares:
    """How much of the model can shrink, and how much cannot."""
    frozen = {_parameter_of(one.axis) for one in frozen_axes(graph)}
    movable = {axis.parameter for group in graph.groups for axis in group.axes}
    sizes = [0, 0, 0]
    for name, tensor in zip(tree.names, tree.tensors, strict=True):
        if tensor.parameter:
            sizes[2 if name not in movable else int(name in frozen)] += prod(tensor.shape)
    return FreeShares(*(round(size / max(sum(sizes), 1), 5) for size in sizes))


def _parameter_of(axis: str) -> str:
    """The name of the parameter, which may have brackets of its own (``w[0]`` in a ``ParameterDict``)."""
    return axis.rpartition("[")[0] or axis


def _share_along(items: list[Frozen], tree: ModuleTree) -> float:
    """The fraction of all parameters whose entries lie at frozen places of these axes."""
    touched: dict[str, float] = {}
    for one in items:
        name = _parameter_of(one.axis)
        touched[name] = max(touched.get(name, 0.0), one.count / max(one.size, 1))
    sizes = {n: prod(t.shape) for n, t in zip(tree.names, tree.tensors, strict=True) if t.parameter}
    return sum(sizes.get(name, 0) * part for name, part in touched.items()) / max(sum(sizes.values()), 1)
