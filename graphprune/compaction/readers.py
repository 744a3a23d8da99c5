"""What reads the channels of a model, and which of them it reads as constants."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from graphprune.calibration.moments import ConsumerStatistics
from graphprune.calibration.statistics import Statistics
from graphprune.compaction.variants import scaled_at_random
from graphprune.graph.groups import Units
from graphprune.rules.labels import ParameterAxis
from graphprune.tracing.inputs import MethodCall
from graphprune.utils.arrays import Ids, Mask, Scores

CONSTANT = 1e-10
"""The largest deviation of a constant, relative to its root mean square, in float64."""


@dataclass(frozen=True, eq=False)
class Reader:
    """A weight that sums over channels.

    Attributes:
        axes: the parameter axes that are summed over.
        unit, place: removing ``unit[i]`` removes the input channel ``place[i]``, and not all that is made of it.
        mean: of each input channel. [channels]
        varying: is it no constant, for these weights or others with the same zeros? [channels]
    """

    axes: tuple[ParameterAxis, ...]
    unit: Ids
    place: Ids
    mean: Scores
    varying: Mask

    def sharing(self, units: Mask) -> Ids:
        """The units that own an input of which one of these units owns a part, such as the head around it."""
        return np.unique(self.unit[np.isin(self.place, self.place[units[self.unit]])])


def find_readers(model: nn.Module, units: Units, calls: Sequence[MethodCall]) -> list[Reader]:
    """All readers of a model in the order of execution, with what they read in these calls of ``forward``.

    Args:
        model: in float64.
        units: of the model.
        calls: variants of the example inputs.
    """
    own = _consumers(model, units, calls)
    varying = [_varies(consumer) for consumer in own]
    for other in scaled_at_random(model):
        for found, consumer in zip(varying, _consumers(other, units, calls), strict=False):
            found |= _varies(consumer) if len(found) == consumer.absolute.numel() else True
    return [_reader(one, found, units) for one, found in zip(own, varying, strict=True)]


def _reader(consumer: ConsumerStatistics, varying: Mask, units: Units) -> Reader:
    numbers = [number for number, axis in enumerate(units.axes) if axis.name in consumer.axes]
    along = units.occurrences.unit[np.isin(units.occurrences.axis, numbers)]
    read = np.isin(consumer.unit, along)  # else the unit is that of a group of a convolution, which goes with it
    mean = consumer.inputs.mean.flatten().numpy()
    return Reader(consumer.axes, consumer.unit[read], consumer.place[read], mean, varying)


def multiplied_inputs(model: nn.Module, units: Units, calls: Sequence[MethodCall]) -> list[Mask]:
    """For every reader of a model, which of the input channels it multiplies with something else than zeros."""
    return [(one.absolute.flatten() > 0).numpy() for one in _consumers(model, units, calls)]


def _consumers(model: nn.Module, units: Units, calls: Iterable[MethodCall]) -> tuple[ConsumerStatistics, ...]:
    batches = forward_batches(calls)
    return Statistics(model, units, batches).consumers() if batches else ()


def forward_batches(calls: Iterable[MethodCall]) -> list[Any]:
    """The inputs of the calls of ``forward``, as calibration batches."""
    return [call.kwargs or call.args for call in calls if call.method == "forward"]


def _varies(consumer: ConsumerStatistics) -> Mask:
    """Which inputs are no constants; what is no number varies. [channels]"""
    inputs = consumer.inputs
    still = inputs.variance <= CONSTANT**2 * inputs.square
    found: Mask = (~still).flatten().numpy()
    return found
