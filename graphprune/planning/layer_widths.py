"""What stays of a layer beside the units of a group: it counts where the width of the layer is to be a multiple."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import nn

from graphprune.graph.groups import Group, Units
from graphprune.planning.limits import Limit, puts_out
from graphprune.rules.labels import ParameterAxis
from graphprune.utils.arrays import Ids, Mask
from graphprune.utils.modules import named_modules


def staying_beside(units: Units, limits: Sequence[Limit], model: nn.Module) -> dict[int, Ids]:
    """By group, for each unit's worth of entries of its layer that stays whatever goes, the next unit of the group.

    Entries stay that nothing can remove, and those of groups that are frozen, or of fewer units than their multiple.
    Where several groups share a layer, they are counted with the largest.

    Args:
        units: those of the model.
        limits: of their groups.
        model: the dense model.
    """
    modules = dict(named_modules(model))
    number_of = {axis.parameter_axis: number for number, axis in enumerate(units.axes)}
    moving = np.array(
        [max(limit.least + 1, limit.multiple) <= g.units for g, limit in zip(units.groups, limits, strict=True)]
    )
    found = {}
    for number, group in enumerate(units.groups):
        if moving[number]:
            beside = _next_units(units, number, number_of[_layer_of(group, modules)], moving)
            if len(beside):
                found[number] = beside
    return found


def _layer_of(group: Group, modules: Mapping[str, nn.Module]) -> ParameterAxis:
    """The first axis along which a layer puts a group out; of none, the group's first."""
    return next((axis for axis in group.axes if puts_out(axis, modules)), group.axes[0])


def _next_units(units: Units, number: int, axis: int, moving: Mask) -> Ids:
    """See :func:`staying_beside`; ``number``: of the group, ``axis``: of its layer, ``moving``: the groups."""
    unit, entry = units.occurrences.along(axis)
    owner = units.group_of[unit]
    here = (owner >= 0) & moving[owner]
    staying = np.setdiff1d(np.arange(units.axes[axis].size), entry[here])
    mine, each = unit[owner == number], units.groups[number].units
    largest = np.bincount(owner[here]).argmax() == number
    none: Ids = mine[:0]
    if not largest or len(mine) % each or len(staying) % (len(mine) // each):
        return none
    order = np.argsort(entry[owner == number])
    places = np.searchsorted(entry[owner == number][order], staying[:: len(mine) // each])
    found: Ids = mine[order][np.minimum(places, len(mine) - 1)]
    return found
