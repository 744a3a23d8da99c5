"""Which units a plan may remove at all: of nested kinds only one, and nothing that a size in the code holds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType

import numpy as np

from graphprune.graph.analysis import Analysis
from graphprune.graph.constraints import Equation, SizeConstraints
from graphprune.graph.groups import Group, WhyFrozen
from graphprune.graph.roles import CHANNELS
from graphprune.graph.solve import KINDS, Solution
from graphprune.utils.arrays import Ids, Mask
from graphprune.utils.weak_caches import once_for_each

CHANNEL, ROW, REPEAT, CELL = (KINDS.index(kind) for kind in ("channel", "row", "repeat", "cell"))


_NOTHING: Mapping[int, WhyFrozen] = MappingProxyType({})


def reason_of_kind(kind: str, narrower: Collection[str], role: str = "") -> str:
    """Why nothing is asked of units of a kind that others contain, or that contain others.

    Args:
        kind: one of :data:`graphprune.graph.solve.KINDS`.
        role: of the group of these units.
        narrower: those of :data:`graphprune.graph.roles.NARROWER` that are asked for.
    """
    tied = "tied to sizes that cannot change"
    cell = "heads and groups keep their width unless head_width is given"
    if role in CHANNELS:
        cell = f"whole groups of them go instead unless {role} is given"
    elif narrower:
        cell = tied if "head_width" in narrower else "only queries and keys become narrower"
    return {
        "cell": cell,
        "repeat": "heads become narrower instead" if narrower else "whole key/value groups go instead",
        "row": "heads become narrower instead" if narrower else tied,
    }.get(kind, tied)


@once_for_each
def held_width(graph: Analysis) -> Mapping[int, WhyFrozen]:
    """The channels of heads that stay though ``head_width`` is given, and why."""
    alone = _held_cells(graph, graph.constraints_of_sizes)  # where they hold nothing, equal rows hold nothing either
    return _held_cells(graph, graph.constraints) if alone else alone


def _held_cells(graph: Analysis, read: Callable[[Mask], SizeConstraints]) -> dict[int, WhyFrozen]:
    """The channels of heads that these constraints hold though all heads are to become narrower, and why."""
    constraints = candidates(graph, narrower=("head_width",), read=read)[1]
    held = _fixed(constraints) | constraints.frozen
    return {unit: why for unit, why in held.items() if graph.solution.kind[unit] == CELL}


def _fixed(constraints: SizeConstraints) -> dict[int, WhyFrozen]:
    """The units of which a size fixes how many stay, and why."""
    return {unit: tied_by(e) for e in constraints.equations if _is_fixed(e) for unit in e.expression.units.tolist()}


def _is_fixed(equation: Equation) -> bool:
    """Does it fix how many units stay: is a sum of their numbers a constant?"""
    weights = [weight for weight, _ in equation.expression.terms.values()]
    return bool(equation.expression.constant) and (min(weights) > 0 or max(weights) < 0)


def fixed_channels(graph: Analysis, constraints: SizeConstraints) -> dict[int, WhyFrozen]:
    """The channels of which a size fixes how many there are, and why. Those of heads may become fewer in other ways."""
    return {unit: why for unit, why in _fixed(constraints).items() if graph.solution.kind[unit] == CHANNEL}


def tie_of(constraints: SizeConstraints, group: Group) -> Equation | None:
    """What has one size for channels of a group and for some that stay, at a line of the program."""
    ties = (
        e for e in constraints.equations if e.expression.constant and np.isin(e.expression.units, group.unit_ids).any()
    )
    return next((equation for equation in ties if equation.line), None)


def tied_by(equation: Equation | None, remedy: str = "") -> WhyFrozen:
    """Why channels stay that a size in the code ties to others, or to a number."""
    text = (
        f"the size {equation.number} is used as a number"
        if equation and equation.number
        else "the code has one size for them and for channels that stay"
    )
    return WhyFrozen.at(text + remedy, equation.line if equation else None)


def candidates(
    graph: Analysis,
    reached: Mask | None = None,
    narrower: Collection[str] = (),
    held: Mapping[int, WhyFrozen] = _NOTHING,
    read: Callable[[Mask], SizeConstraints] | None = None,
) -> tuple[Mask, SizeConstraints]:
    """The units that may be removed, and what sizes demand of them.

    Of nested kinds it is the outermost that the plan reaches: key/value groups, else query heads within them; cells
    where nothing around them can go, as in the only head of an attention. What the sizes freeze may pass the choice on
    to the next kind, so the question is asked until the answer stays.

    Args:
        reached: which groups the plan means to take something from; None: all. [groups]
        narrower: those of :data:`graphprune.graph.roles.NARROWER` that are asked for: shrink heads (cells) instead of
            removing whole ones (rows); with ``qk_width`` alone, those of queries and keys.
        held: units that must stay for other reasons.
        read: says what is demanded of the units that may be removed; None: all that the program demands.
    """
    reached = np.ones(len(graph.units.groups), bool) if reached is None else reached
    frozen: dict[int, WhyFrozen] = dict(held)
    while True:
        free = _outermost(graph, reached, narrower, frozen)
        constraints = (read or graph.constraints)(free)
        found = constraints.products if constraints.frozen.keys() <= frozen.keys() else constraints.frozen
        fixed = _fixed(constraints)  # a repeat of heads that stay must not hold the channels within it
        found = {unit: why for unit, why in fixed.items() if graph.solution.kind[unit] == REPEAT} | found
        if found.keys() <= frozen.keys():
            constraints.frozen.update(frozen)
            return free, constraints
        frozen |= found


def _outermost(graph: Analysis, reached: Mask, narrower: Collection[str], frozen: Mapping[int, WhyFrozen]) -> Mask:
    kind = graph.solution.kind
    free = graph.solution.prunable & (graph.units.group_of >= 0)
    free[list(frozen)] = False
    free[only_ones(graph)] = False
    if narrower:
        free &= (kind != ROW) & (kind != REPEAT)
        for group in graph.units.groups if "head_width" not in narrower else ():
            free[group.unit_ids] &= group.scoring or group.role != "head_width"
        return free
    rows = free & (kind == ROW)
    wanted = rows.copy()
    wanted[rows] = reached[graph.units.group_of[rows]]
    outer, streams = free & (kind != CELL), _cells_of_streams(graph, reached)
    within = _within(graph, CELL, outer)
    if streams.any():
        within = within[~streams[within]]
        free[_within(graph, CELL, outer & (wanted | ~rows))] = False
    free[within] = False
    free[_within(graph, REPEAT, wanted)] = False
    free[rows & ~wanted] = False
    return free


def _cells_of_streams(graph: Analysis, reached: Mask) -> Mask:
    """The channels within groups of a residual stream that the plan means to take some of. [classes]"""
    found = np.zeros(graph.solution.count, bool)
    for number, group in enumerate(graph.units.groups):
        if reached[number] and graph.units.is_grouped_stream(group):
            found[group.unit_ids] = True
    return found


def only_ones(graph: Analysis) -> list[int]:
    """Rows and repeats that are alone in their group: one must stay."""
    kind, groups = graph.solution.kind, graph.units.groups
    return [g.unit_ids[0] for g in groups if g.units == 1 and kind[g.unit_ids[0]] in (ROW, REPEAT)]


def _within(graph: Analysis, inner: int, outer: Mask) -> Ids:
    """Units of the kind ``inner`` that are composed with one of the units ``outer``."""
    solution, items = graph.solution, graph.solution.items
    composed = np.flatnonzero(items.parts[:, 0] >= 0)
    part, unit, whole = np.zeros((3, 0), np.int64)
    for mine, other in ((0, 1), (1, 0)):
        here = composed[items.kind[items.parts[composed, mine]] == inner]
        found = items.units(items.parts[here, other], items.parts[here, mine], here)
        unit, part, whole = map(np.concatenate, zip((unit, part, whole), found, strict=True))
    among = items.living(outer)[unit]
    every, some = among == items.size[unit], (among > 0) & (among < items.size[unit])
    return np.concatenate(
        [
            items.classes(np.unique(items.units(np.unique(part[every]))[0])),
            *(_placed(solution, *rows, outer) for rows in zip(part[some], unit[some], whole[some], strict=True)),
        ]
    )


def _placed(solution: Solution, part: int, unit: int, whole: int, outer: Mask) -> Ids:
    """The units of the item ``part`` that stand at places of units ``outer`` of the item ``unit`` in ``whole``."""
    items = solution.items
    place = np.arange(items.size[whole])[outer[items.first[unit] : items.first[unit] + items.size[unit]]]
    return solution.expand(np.unique(items.first[part] + (place if items.size[part] > 1 else 0 * place)))[0]
