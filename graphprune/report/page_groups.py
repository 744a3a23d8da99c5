"""Groups as a page shows them: their members, and why these go together."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from graphprune.graph.analysis import Analysis
from graphprune.graph.couplings import Coupling, describe_line
from graphprune.report.module_tree import ModuleTree
from graphprune.report.short_paths import without_folders


class GroupTie(Struct, frozen=True, array_like=True):
    """Why axes go together: an operation on a line, how many pairs of axes it ties, and one of them."""

    operation: str
    place: str
    pairs: int
    example: str


class PageGroup(Struct, frozen=True):
    """One group.

    Attributes:
        name, role, units: as in :class:`graphprune.Group`.
        axes: pairs of the number of a tensor and a dimension.
        ties: why these go together.
        macs, params: the fraction of the model's MACs and parameters in which the group takes part.
    """

    name: str
    role: str
    units: int
    axes: list[tuple[int, int]]
    ties: list[GroupTie]
    macs: float
    params: float


def page_groups(graph: Analysis, tree: ModuleTree) -> list[PageGroup]:
    """All groups, in the order of execution."""
    numbers = {name: number for number, name in enumerate(tree.names)}
    shares = graph.costs.shares(graph.units).T.tolist()
    return [
        PageGroup(
            group.name,
            group.role,
            group.units,
            [(numbers[axis.parameter], axis.dim) for axis in group.axes if axis.parameter in numbers],
            _ties(group.couplings),
            round(macs, 5),
            round(params, 5),
        )
        for group, (macs, params) in zip(graph.groups, shares, strict=True)
    ]


def _ties(couplings: Sequence[Coupling]) -> list[GroupTie]:
    """Couplings by operation and line, in the order of execution."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in couplings:
        place = without_folders(describe_line(one.line))
        found.setdefault((one.op, place), []).append(f"{one.first} ~ {one.second}")
    return [GroupTie(op, place, len(pairs), pairs[0]) for (op, place), pairs in found.items()]
