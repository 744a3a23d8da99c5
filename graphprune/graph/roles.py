"""What part a group plays in its network: heads, hidden units, the width that residual sums share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from graphprune.graph.groups import Group, Units
from graphprune.graph.propagate import Labelling
from graphprune.graph.solve import KINDS
from graphprune.rules.labels import LabelledTensor
from graphprune.utils.arrays import Ids, Mask

aten = torch.ops.aten


_SUMS = frozenset((aten.add.Tensor, aten.add_.Tensor, aten.sub.Tensor))


def roles_of(labelling: Labelling, units: Units, groups: Sequence[Group]) -> list[str]:
    """For every group one of ``graphprune.limits.ROLES``.

    Rows are ``groups`` where a convolution or norm counts them, ``kv_groups`` where query heads are nested in them,
    else ``heads``; cells are ``head_width``. Channels are ``width`` where two activations are added (a residual
    sum ties them), else ``mlp``: inner channels, which belong to one block.
    """
    counted = _units_of(units, [v for table in labelling.counts.values() for v in table.values()])
    summed = _units_of(units, _summed(labelling))
    nested = _with_repeats(units)
    return [_role(group, counted, summed, nested) for group in groups]


def _role(group: Group, counted: Mask, summed: Mask, nested: Mask) -> str:
    if group.kind == "expert":
        return "experts"
    if group.kind == "cell":
        return "head_width"
    if group.kind == "repeat":
        return "heads"
    if group.kind == "row":
        if counted[group.unit_ids].any():
            return "groups"
        return "kv_groups" if nested[group.unit_ids].any() else "heads"
    return "width" if summed[group.unit_ids].any() else "mlp"


def _units_of(units: Units, values: Sequence[LabelledTensor]) -> Mask:
    found = np.zeros(len(units.solution.reason), bool)
    arrays = [array.ids.ravel() for value in values for array in value.arrays]
    if arrays:
        found[units.solution.expand(units.solution.of[np.concatenate(arrays)])[0]] = True
    return found


def _summed(labelling: Labelling) -> list[LabelledTensor]:
    """The results of sums of two activations (a bias is a parameter)."""
    found = []
    for node in labelling.nodes:
        if node.target in _SUMS:
            both = [labelling.values.get(a) for a in node.args[:2] if isinstance(a, torch.fx.Node)]
            if len(both) == 2 and all(isinstance(v, LabelledTensor) and v.arrays and not v.movable for v in both):
                found.append(labelling.values[node])
    return found


def _with_repeats(units: Units) -> Mask:
    """Rows that are composed with repeats: key/value groups with several query heads each."""
    kind, parts = units.solution.kind, units.solution.parts
    found = np.zeros(len(kind), bool)
    composed = np.flatnonzero(parts[:, 0] >= 0)
    repeat = KINDS.index("repeat")
    for mine, other in ((0, 1), (1, 0)):
        rows: Ids = parts[composed[kind[parts[composed, mine]] == repeat], other]
        found[units.solution.expand(rows)[0]] = True
    return found


ROLES = ("heads", "kv_groups", "head_width", "mlp", "width", "experts", "groups")
