"""What cannot be pruned, and why."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from torch import fx

from graphprune.graph.analysis import Analysis
from graphprune.graph.candidates import REPEAT, ROW, candidates, fixed_channels
from graphprune.graph.constant_operands import constant_before, constant_operand
from graphprune.graph.groups import Frozen, WhyFrozen
from graphprune.graph.heads_in_one import heads_in_one
from graphprune.rules.labels import MEETS_NO_CHANNELS, Axis, Reason
from graphprune.rules.scattering import BY_NUMBER
from graphprune.utils.arrays import Ids, Mask


def frozen_axes(graph: Analysis) -> tuple[Frozen, ...]:
    """Parameter axes that cannot be pruned (wholly or in part), and why."""
    demanded = _demanded(graph)
    reported = _reported(graph)
    found = []
    for axis in graph.units.axes:
        classes = graph.units.labels_of(axis)
        reasons = _reasons(graph, classes)
        fixed = (reasons >= 0) & reported[reasons]
        if fixed.any():
            number = int(reasons[fixed][0])
            why = _reason(graph, number) if number else _beside_nothing(graph, axis)
            found.append(Frozen(axis.parameter_axis, int(fixed.sum()), axis.size, why))
        elif demanded:
            units, entries = graph.solution.expand(classes, np.arange(len(classes)))
            held = np.isin(units, list(demanded))
            if held.any():
                count = len(np.unique(entries[held]))
                found.append(Frozen(axis.parameter_axis, count, axis.size, demanded[int(units[held].min())]))
    unused = ((n, s) for n in graph.trace.unreached for s in [graph.trace.shapes[n]] if len(s))
    note = f" ({graph.trace.note})" if graph.trace.note else ""
    found += [Frozen(n, s[0], s[0], WhyFrozen(f"not used in the traced run{note}")) for n, s in unused]
    return tuple(found)


def _reasons(graph: Analysis, classes: Ids) -> Ids:
    """The number of the reason why each class stays, also where all that it is composed of does; or -1."""
    reasons = graph.solution.reason_of(classes)
    _, free = graph.solution.expand(classes, np.arange(len(classes)))
    held = np.setdiff1d(np.flatnonzero(reasons < 0), free)
    parts = classes[held]
    while len(parts):
        parts = graph.solution.parts_of(parts)[:, 0]
        reasons[held] = graph.solution.reason_of(parts)
        composed = reasons[held] < 0
        held, parts = held[composed], parts[composed]
    return reasons


def _demanded(graph: Analysis) -> dict[int, WhyFrozen]:
    """What the sizes in the program freeze when something is to be taken from everything."""
    constraints = candidates(graph)[1]
    return fixed_channels(graph, constraints) | constraints.frozen


def _reported(graph: Analysis) -> Mask:
    """Which reasons are about channels at all: kernel sizes and the like are not."""
    return np.array([bool(str(r)) for r in graph.labeling.labels.facts.reasons] or [False])


def _reason(graph: Analysis, number: int) -> WhyFrozen:
    reason = graph.labeling.labels.facts.reasons[number]
    node = graph.labeling.nodes[reason.node_index]
    return WhyFrozen.at(_with_constant(graph, reason, node), reason.line or node.meta.get("line"))


def _beside_nothing(graph: Analysis, axis: Axis) -> WhyFrozen:
    """The reason of entries that stand beside others without channels: of an input that was laid beside embeddings."""
    end = axis.start + axis.size
    for *pair, number in graph.labeling.labels.facts.unions:
        met = any((ids == 0).any() for ids in pair)
        if met and any(((axis.start <= ids) & (ids < end)).any() for ids in pair):
            return WhyFrozen.at(MEETS_NO_CHANNELS, graph.labeling.nodes[number].meta.get("line"))
    return WhyFrozen(MEETS_NO_CHANNELS)


def _with_constant(graph: Analysis, reason: Reason, node: fx.Node) -> str:
    """The reason with the constant that channels meet, or whose numbers they are looked up by."""
    text = str(reason)
    if reason.text == MEETS_NO_CHANNELS:
        found = constant_operand(graph.labeling, node)
        before = "" if found else constant_before(graph.labeling, node, _losing(graph))
        return f"meets {found}" if found else f"meets what lost its channels to {before}" if before else text
    if reason.text in BY_NUMBER:
        found = constant_operand(graph.labeling, node)
        return f"{text}: {found}" if found else text
    return text


def _losing(graph: Analysis) -> set[fx.Node]:
    """The calls in which channels met a dimension without channels."""
    reasons = graph.labeling.labels.facts.reasons
    return {graph.labeling.nodes[reason.node_index] for reason in reasons if reason.text == MEETS_NO_CHANNELS}


def heads_that_stay(graph: Analysis) -> dict[int, WhyFrozen]:
    """Why heads stay within which channels can go: by the units of these channels."""
    items = graph.solution.items
    composed = np.flatnonzero(items.parts[:, 0] >= 0)
    found: dict[int, int] = {}
    for head, inner in (items.parts[composed].T, items.parts[composed].T[::-1]):
        held = (items.reason[head] >= 0) & np.isin(items.kind[head], (ROW, REPEAT))
        for number, item in zip(items.reason[head[held]].tolist(), inner[held], strict=True):
            units = items.classes(items.units(np.array([item]))[0])
            found = dict.fromkeys(units.tolist(), number) | found
    return {unit: _reason(graph, number) for unit, number in found.items()} | _around_one(graph)


def _around_one(graph: Analysis) -> dict[int, WhyFrozen]:
    """Why heads stay that are one unit, by the units of the channels within them."""
    items = graph.solution.items
    found: dict[int, WhyFrozen] = {}
    for unit, why in heads_in_one(graph).items():
        one = items.parts == items.item_of(np.array([unit]))
        inner = np.unique(items.parts[one[:, ::-1]])
        found |= dict.fromkeys(items.classes(np.unique(items.units(inner)[0])).tolist(), why)
    return found


def frozen_by_reason(frozen: Iterable[Frozen]) -> dict[str, list[Frozen]]:
    """Frozen axes by what froze them, whatever the place, the most frequent first."""
    found: dict[str, list[Frozen]] = {}
    for item in frozen:
        found.setdefault(item.why.text, []).append(item)
    return dict(sorted(found.items(), key=lambda pair: -len(pair[1])))
