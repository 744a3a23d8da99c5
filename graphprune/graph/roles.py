"""What part a group plays in its network: heads, hidden units, the width that residual sums share."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from graphprune.graph.propagate import Labeling
from graphprune.graph.residual_sums import residual_sums
from graphprune.graph.solve import KINDS, Solution
from graphprune.rules.labels import LabeledTensor
from graphprune.rules.registry import rule_of
from graphprune.utils.arrays import Ids, Mask


class Roles:
    """Tells the role of a set of units of one kind.

    Rows are ``groups`` where a convolution or norm counts them, ``kv_groups`` where query heads are nested in them,
    else ``heads``. Channels are ``width`` where activations are added that different layers made (a residual sum ties
    them), else ``mlp``: inner channels, which belong to one block. Cells are ``head_width``, or ``width`` where a
    convolution or norm reads channels of a residual sum in groups.
    """

    def __init__(self, labeling: Labeling, solution: Solution) -> None:
        self._labeling = labeling
        self._solution = solution

    @cached_property
    def _counted(self) -> Mask:
        counts = [value for table in self._labeling.counts.values() for value in table.values()]
        return _units_of(self._labeling, self._solution, counts)

    @cached_property
    def _summed(self) -> Mask:
        return _units_of(self._labeling, self._solution, residual_sums(self._labeling))

    @cached_property
    def _nested(self) -> Mask:
        return _with_repeats(self._labeling, self._solution)

    @cached_property
    def _scoring(self) -> Mask:
        met, weighted = _multiplied(self._labeling)
        if not met:
            return np.zeros(self._solution.count, bool)
        return _units_of(self._labeling, self._solution, met) & ~_units_of(self._labeling, self._solution, weighted)

    def role(self, kind: str, units: Ids) -> str:
        """One of :data:`ROLES`, for units of a kind of :data:`graphprune.graph.solve.KINDS`."""
        if kind == "row":
            if self._counted[units].any():
                return "groups"
            return "kv_groups" if self._nested[units].any() else "heads"
        if kind in ("channel", "filled"):
            return "width" if self._summed[units].any() else "mlp"
        if kind == "cell":
            stream = self._summed[units].any() and self._counted[rows_around(self._solution, units)].any()
            return "width" if stream else "head_width"
        return {"expert": "experts", "repeat": "heads"}[kind]

    def scoring(self, kind: str, units: Ids) -> bool:
        """Are these channels of queries and keys: cells that products of two activations sum over, and no weight?"""
        return kind == "cell" and bool(self._scoring[units].all())


def rows_around(solution: Solution, cells: Ids) -> Ids:
    """The rows within which these cells are: the heads of their channels, or the groups."""
    items = solution.items
    parts = items.parts[items.parts[:, 0] >= 0]
    mine, row = np.isin(parts, np.unique(items.item_of(cells))), items.kind[parts] == KINDS.index("row")
    rows = np.concatenate([parts[mine[:, one] & row[:, other], other] for one, other in ((0, 1), (1, 0))])
    return items.classes(np.unique(items.units(np.unique(rows))[0]))


def _units_of(labeling: Labeling, solution: Solution, values: Sequence[LabeledTensor]) -> Mask:
    """Which units the entries of tensors need. [classes]"""
    found = np.zeros(solution.count, bool)
    arrays = {id(array.ids): array.ids for value in values for array in value.arrays}.values()
    axes = [labeling.labels.axis_of_all(ids) for ids in arrays]
    items = [solution.items.of_axis(axis) for axis in {*axes} if axis is not None]
    if items:
        found[solution.items.classes(np.unique(solution.items.units(np.unique(np.concatenate(items)))[0]))] = True
    others = [_without_repeats(ids.ravel()) for ids, axis in zip(arrays, axes, strict=True) if axis is None]
    if others:
        found[solution.expand(solution.of[np.concatenate(others)])[0]] = True
    return found


def _without_repeats(ids: Ids) -> Ids:
    """Leave out labels that equal the one before: rows are repeated for every channel of a head."""
    found: Ids = ids[np.diff(ids, prepend=-1) != 0]
    return found


def _multiplied(labeling: Labeling) -> tuple[list[LabeledTensor], list[LabeledTensor]]:
    """What products sum over: those of two activations, and those with a parameter."""
    met: list[LabeledTensor] = []
    weighted: list[LabeledTensor] = []
    for node in labeling.nodes:
        known = rule_of(node.target) if node.op == "call_function" else None
        pairs = known.sums(*node.args, **node.kwargs) if known is not None and known.sums is not None else ()
        if len(pairs) != 2 or not all(isinstance(node.args[place], torch.fx.Node) for place, _ in pairs):
            continue
        values = [labeling.values[node.args[place]] for place, _ in pairs]  # type: ignore[index]
        found = met if all(value.arrays and not value.movable for value in values) else weighted
        found += [
            LabeledTensor(value.shape, tuple(value.touching(dims)))
            for value, (_, dims) in zip(values, pairs, strict=True)
        ]
    return met, weighted


def _with_repeats(labeling: Labeling, solution: Solution) -> Mask:
    """Rows that are composed with repeats: key/value groups with several query heads each.

    Repeats that no parameter has are copies for each sample, such as those of learned queries.
    """
    items, found = solution.items, np.zeros(solution.count, bool)
    repeat = items.kind == KINDS.index("repeat")
    if not repeat.any():
        return found
    parts = items.parts[items.parts[:, 0] >= 0]
    named = np.array([axis.name is not None for axis in labeling.labels.axes], bool)
    held = items.occurrences(np.where(named, 0, -1)).item
    for mine, other in ((0, 1), (1, 0)):
        repeats = repeat[parts[:, mine]] & np.isin(parts[:, mine], held)
        rows = np.unique(parts[repeats, other])
        found[items.classes(np.unique(items.units(rows)[0]))] = True
    return found


CHANNELS = ("mlp", "width")
"""Roles of groups whose units are single channels."""
NARROWER = ("head_width", "qk_width")
"""Ratios under which heads become narrower, not fewer: of all channels of heads, and of those of queries and keys."""
ROLES = ("heads", "kv_groups", "head_width", "mlp", "width", "experts", "groups")
