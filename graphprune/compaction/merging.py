"""Let one zero channel carry the constants of several: where no bias can, at padded borders or without a bias.

What a padded kernel or a matrix makes of a constant is proportional to it. So of the channels of a group that pass on
nothing but constants, all but one can go, when what reads that one is multiplied with the sum of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphprune.compaction.folding import ConstantFolding, WeightPart
from graphprune.graph.analysis import Analysis
from graphprune.rules.labels import ParameterAxis
from graphprune.utils.arrays import Ids, Mask


def merge_constants(graph: Analysis, folding: ConstantFolding, stuck: Mask) -> dict[int, int]:
    """Merge channels that pass on constants which biases cannot take, where what reads them is known.

    Args:
        graph: the analyzed model.
        folding: the weights that read channels; they change, and the model's outputs do not.
        stuck: the units that pass on such constants. [classes]

    Returns:
        The units that carry constants from now on, and of how many others.
    """
    found = {}
    for group in graph.units.groups:
        units = group.unit_ids[stuck[group.unit_ids]]
        if len(units) > 1:
            carried = _Group(graph, folding, group.axes, units).merge()
            if carried is not None:
                found[carried[0]] = carried[1]
    return found


class _Group:
    """Units of one group that pass on constants, and the weights whose biases cannot take these."""

    def __init__(self, graph: Analysis, folding: ConstantFolding, axes: Sequence[ParameterAxis], units: Ids) -> None:
        self.folding = folding
        self.units = units
        self.where = graph.units.occurrences
        self.numbers = {a.parameter_axis: n for n, a in enumerate(graph.units.axes) if a.parameter_axis in axes}
        names = dict.fromkeys(axis.parameter for axis in axes)
        weights = [weight for name in names for weight in folding.by_parameter.get(name, []) if not weight.folds]
        self.channels = {weight: [self._channels(weight, unit) for unit in units.tolist()] for weight in weights}

    def merge(self) -> tuple[int, int] | None:
        """The unit that carries the constants of others from now on, and how many these are."""
        strength = np.array([self._strength(number) for number in range(len(self.units))])
        best = int(strength.argmax())
        others = [n for n in range(len(self.units)) if n != best and self._alike(n, best)]
        if not strength[best] > 0 or not others:
            return None
        for weight, channels in self.channels.items():
            into = np.concatenate([channels[best]] * len(others))
            self.folding.merge(weight, into, np.concatenate([channels[n] for n in others]))
        return int(self.units[best]), len(others)

    def _channels(self, weight: WeightPart, unit: int) -> Ids:
        """The inputs of a weight that belong to a unit, in order."""
        found = np.zeros(0, np.int64)
        for axis, number in self.numbers.items():
            if axis.parameter == weight.parameter:
                here = (self.where.axis == number) & (self.where.unit == unit)
                found = np.union1d(found, weight.channels(axis.dim, self.where.index[here]))
        return found

    def _strength(self, number: int) -> float:
        """The smallest magnitude that a unit passes on to any of the weights; 0 where there is none."""
        means = [weight.means.flatten()[channels[number]].abs() for weight, channels in self.channels.items()]
        return min((float(mean.min()) for mean in means if mean.numel()), default=0.0)

    def _alike(self, number: int, other: int) -> bool:
        """Do two units have as many inputs of every weight, in the same blocks?"""
        return all(
            np.array_equal(weight.block(channels[number]), weight.block(channels[other]))
            for weight, channels in self.channels.items()
        )
