"""Fold what zero channels still pass on into what reads them: into biases, or into one channel for all.

Both change a model's parameters and not its outputs; afterwards nothing reads the channels. (``fold`` of
:mod:`graphprune.reconstruction.folding` is another thing: it adds pruned channels to similar ones.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from graphprune.calibration.moments import Moments
from graphprune.pruning.plan import Plan
from graphprune.reconstruction.call_recorder import BiasTarget, CallRecorder, Consumer
from graphprune.reconstruction.linear_calls import CallKey, ParameterView, flat, linear_call
from graphprune.reconstruction.passes import run_alone
from graphprune.rules.labels import ParameterAxis
from graphprune.rules.registry import matmul_views
from graphprune.tracing.run_state import evaluating_unchanged
from graphprune.utils.arrays import Ids
from graphprune.utils.operators import Args, DispatchMode, Kwargs

_PADDING = 4
"""At which argument a convolution says how many zeros it adds at the borders."""


@dataclass(frozen=True, eq=False)
class WeightPart:
    """A part of a parameter that is multiplied with inputs.

    Attributes:
        parameter: its name.
        memory: of the whole parameter.
        places: of the weight in it. [blocks, channels, kernel positions, outputs]
        entries: for each dimension of the parameter along which inputs lie, the entry of each. Along rows of a
            depthwise kernel lie outputs, which go with the input. [blocks, channels]
        means: of the inputs. [blocks, channels]
        target: the bias that takes a constant; None: there is none of its own.
        bordered: it adds zeros at the borders of its input, so that a constant is none there.
    """

    parameter: str
    memory: Tensor
    places: Tensor
    entries: Mapping[int, Ids]
    means: Tensor
    target: BiasTarget | None
    bordered: bool

    @property
    def folds(self) -> bool:
        """Does its bias take any constant that it reads?"""
        return self.target is not None and not self.bordered

    def channels(self, dim: int, entries: Ids) -> Ids:
        """The inputs, of blocks times channels, that lie at some entries of a dimension."""
        return np.flatnonzero(np.isin(self.entries[dim], entries)) if dim in self.entries else entries[:0]

    def rows(self, channels: Ids) -> Tensor:
        """The places of what is multiplied with these inputs. [inputs, kernel positions, outputs]"""
        return self.places.flatten(0, 1)[torch.from_numpy(channels)]

    def block(self, channels: Ids) -> Ids:
        """The block of each of these inputs."""
        found: Ids = channels // self.places.shape[1]
        return found


class ConstantFolding:
    """The weights of a model that read channels, and their change.

    Args:
        model: in float64 and evaluation mode; its parameters change when something is folded.
        batches: the example inputs.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Any]) -> None:
        self.model = model
        with evaluating_unchanged(model), torch.no_grad():
            self._recorder = CallRecorder(model)
            for number, batch in enumerate(batches):
                self._recorder.record(model, number, batch)
            means = _InputMeans(self._recorder)
            for number, batch in enumerate(batches):
                run_alone(model, number, batch, means)
        found = (self._weight(consumer, means) for consumer in self._recorder.consumers.values())
        self.weights = [weight for weight in found if weight is not None]

    @cached_property
    def by_parameter(self) -> dict[str, list[WeightPart]]:
        """The weights by the name of the parameter that they are parts of."""
        found: dict[str, list[WeightPart]] = {}
        for weight in self.weights:
            found.setdefault(weight.parameter, []).append(weight)
        return found

    def takes(self, axes: Sequence[ParameterAxis]) -> bool:
        """Can constants that are read along these axes be folded into biases?"""
        found = [self.by_parameter.get(axis.parameter, []) for axis in axes]
        return all(weights and all(weight.folds for weight in weights) for weights in found)

    def why_not(self, axes: Sequence[ParameterAxis]) -> str:
        """Why constants that are read along these axes cannot be folded into biases."""
        name = next((a.parameter for a in axes if not self.takes([a])), axes[0].parameter)
        weights = self.by_parameter.get(name, [])
        if not weights:
            return f"as {name} is no plain weight, and what they pass on to it stays"
        if any(weight.bordered for weight in weights):
            return f"as {name} pads with zeros, and what they pass on to it is no constant at the borders"
        return f"as {name} has no bias of its own that takes what they pass on to it"

    def _weight(self, consumer: Consumer, means: _InputMeans) -> WeightPart | None:
        met, moments, name = consumer.first, means.moments.get(consumer.key), consumer.key.name
        used_otherwise = name in (*self._recorder.other_uses, *self._recorder.computed, *self._recorder.copied)
        if moments is None or not moments.count or consumer.scaled or met.matmul.result is None or used_otherwise:
            return None
        taps = met.matmul.positions(met.key.view.size)
        places = met.places()
        places = places.reshape(places.shape[0], -1, taps, places.shape[2])
        whole = self._recorder.memory.whole(name)
        bordered = met.matmul.kernel is not None and (met.key.transposed or any(met.args[_PADDING]))
        target = self._recorder.bias_target(consumer)
        memory = flat(self._recorder.memory.tensors[name])
        return WeightPart(name, memory, places, _entries(places, whole), moments.mean, target, bordered)

    # ------------------------------------------------------------ into biases

    def fold(self, plan: Plan) -> None:
        """Add the constants of the channels that a plan removes to biases, and set what reads them to zero."""
        for weight in self.weights:
            channels = np.zeros(0, np.int64)
            for dim, kept in plan.kept.get(weight.parameter, {}).items():
                gone = np.setdiff1d(np.arange(plan.shapes[weight.parameter][dim]), np.asarray(kept))
                channels = np.union1d(channels, weight.channels(dim, gone))
            if len(channels):
                self._fold(weight, channels)

    def _fold(self, weight: WeightPart, channels: Ids) -> None:
        rows = weight.rows(channels)
        means = weight.means.flatten()[torch.from_numpy(channels)]
        passed = means[:, None] * weight.memory[rows].sum(1)
        if weight.target is not None and bool(passed.any()):
            self._add(weight, weight.block(channels), passed)
        weight.memory[rows] = 0

    def _add(self, weight: WeightPart, block: Ids, passed: Tensor) -> None:
        """Add what inputs pass on [inputs, outputs] to a bias, or subtract it from a running mean."""
        assert weight.target is not None
        added = passed.new_zeros(weight.places.shape[0], passed.shape[1])
        added.index_add_(0, torch.from_numpy(block), passed)
        places = weight.target.view.places()
        memory = flat(self._recorder.memory.tensors[weight.target.view.name])
        memory[places] += weight.target.sign * added.reshape(places.shape)

    # ------------------------------------------------------------ into one channel

    def merge(self, weight: WeightPart, into: Ids, channels: Ids) -> None:
        """Let inputs, each of which is a constant, count as multiples of others, and set what reads them to zero.

        Args:
            weight: what reads them.
            into: an input for each, in the same block, whose mean is not zero.
            channels: the inputs.
        """
        means = weight.means.flatten()
        factors = means[torch.from_numpy(channels)] / means[torch.from_numpy(into)]
        rows = weight.rows(channels)
        weight.memory.index_add_(
            0, weight.rows(into).flatten(), (factors[:, None, None] * weight.memory[rows]).flatten()
        )
        weight.memory[rows] = 0


def _entries(places: Tensor, whole: ParameterView) -> dict[int, Ids]:
    """For each dimension of a parameter along which the inputs of a weight lie, and not its outputs, their entries."""
    ends = places[:, :, 0, [0, -1]]
    found = {}
    for dim, (size, stride) in enumerate(zip(whole.size, whole.stride, strict=True)):
        first, last = (ends // max(stride, 1) % size).unbind(-1)
        if torch.equal(first, last) and not torch.equal(first, first[:, :1].expand_as(first)):
            found[dim] = first.numpy()
    return found


class _InputMeans(DispatchMode):
    """Means of the inputs of consumers, before a convolution adds zeros at their borders."""

    def __init__(self, recorder: CallRecorder) -> None:
        super().__init__()
        self.moments: dict[CallKey, Moments] = {}
        self._recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Args = (), kwargs: Kwargs | None = None) -> Any:
        kwargs = kwargs or {}
        met = linear_call(func, args, kwargs, self._recorder.memory, self._recorder.names)
        if met is not None:
            view = matmul_views(func)[met.key.matmul]
            x = view.open(met.x, args[view.weight], args, met.key.blocks)[0]
            self.moments.setdefault(met.key, Moments(products=False)).add(x)
        return func(*args, **kwargs)
