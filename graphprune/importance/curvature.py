"""A criterion that reads both the inputs of a unit's consumers and the gradients of a loss by their weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphprune.calibration.moments import ConsumerStatistics
from graphprune.calibration.statistics import Gradients
from graphprune.graph.groups import Group
from graphprune.importance.activations import removal_losses
from graphprune.importance.context import Context
from graphprune.importance.criteria import criterion
from graphprune.importance.gradient_sums import gather_gradients, gathered, gradient_sum
from graphprune.importance.gradients import in_float32
from graphprune.utils.arrays import Ids, Scores

TWICE = 4.0
"""Taylor's square counts both sides of a unit, which say the same: what makes it, and what reads it."""


@criterion(
    "kfac", data=True, comparable=True, help="root of the loss of optimal removal, by Kronecker-factored curvature"
)
def kfac(group: Group, context: Context) -> Tensor:
    """Root of the loss without a unit, after least squares: sqrt(1/2 w_j G w_jᵀ / [(A + λI)^-1]_jj). [units]

    A are the second moments of a consumer's input, as for ``schur``, and G = E[g gᵀ] those of the loss's gradient by
    its output, so that errors count by what they do to the model's output; the curvature of the weights is their
    Kronecker product. G is taken from the gradients P of a sample's loss by the weight, as E[Pᵀ P] / trace(A): steps
    of time and positions that share the weight are in it. Losses are summed over the consumers of a unit; a unit with
    several channels (a head) has a trace, as for ``schur``. The root makes scores grow with the error, not its square,
    since errors of many units add up. A unit that no consumer's whole weight reads (queries and keys) has Taylor's
    estimate of the same loss.

    Source: Martens and Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature", ICML 2015;
    van der Ouderaa, Nagel, van Baalen, Asano and Blankevoort, "The LLM Surgeon", ICLR 2024; Hassibi and Stork, "Second
    order derivatives for network pruning: Optimal Brain Surgeon", NeurIPS 1992.
    """
    gather_gradients(context, "kfac", "taylor")
    curvature: _Curvature = gathered(context, "kfac")
    found = context.over_consumers(group, curvature.scores, products=True)
    estimate = gathered(context, "taylor")[group.unit_ids] / TWICE
    losses = estimate if found is None else np.where(found > 0, found, estimate)
    return torch.from_numpy(np.sqrt(0.5 * losses.clip(min=0)))


@dataclass(frozen=True)
class _Opening:
    """How a parameter becomes the weight of a consumer.

    Attributes:
        name, dim: the parameter, and its dimension that is summed over.
        blocks: how many blocks the weight has: groups of a convolution, or matrices of a batched product.
    """

    name: str
    dim: int
    blocks: int

    @staticmethod
    def of(consumer: ConsumerStatistics, context: Context) -> _Opening | None:
        """None: the consumer's weight is no whole parameter, but a part of one, or computed from several."""
        names = {axis.parameter for axis in consumer.axes}  # none where channels are not summed, as in a depthwise one
        name = names.pop() if len(names) == 1 else ""
        weight = context.weights.get(name)
        if weight is None or not weight.is_floating_point() or not _is_masked(context.tensors[name], weight):
            return None
        # a batch of matrices has units along its blocks too, which are summed over one after another
        openings = (_Opening(axis.parameter, axis.dim, consumer.squares.shape[0]) for axis in consumer.axes)
        return next((opening for opening in openings if opening.gives(consumer, weight)), None)

    def gives(self, consumer: ConsumerStatistics, weight: Tensor) -> bool:
        """Is this how the parameter becomes the consumer's weight?"""
        blocks, channels = consumer.squares.shape
        if weight.shape[self.dim] != channels or weight.numel() % (blocks * channels):
            return False
        if blocks > 1 and (self.dim == 0 or weight.shape[0] % blocks):
            return False
        squares = self.open(weight.detach().double()).square().sum(-1)
        return torch.allclose(squares, consumer.squares.to(squares.device), rtol=1e-4, atol=0)

    def open(self, tensor: Tensor) -> Tensor:
        """The parameter, or its gradient, as [blocks, channels, outputs]."""
        if self.blocks == 1:
            return tensor.movedim(self.dim, 0).reshape(1, tensor.shape[self.dim], -1)
        split = tensor.reshape(self.blocks, -1, *tensor.shape[1:])
        return split.movedim(self.dim + 1, 1).flatten(2)


def _is_masked(own: Tensor, weight: Tensor) -> bool:
    """Is a weight its parameter, with zeros in some places? The gradients of both are the same there."""
    return weight is own or bool(((weight == own) | (weight == 0)).all())


@gradient_sum("kfac")
class _WeightGradients:
    """Sums over samples of Pᵀ P or, where a weight W has more outputs than channels, of W Pᵀ P Wᵀ."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._consumers = context.data.consumers(products=True)
        openings = (_Opening.of(consumer, context) for consumer in self._consumers)
        self._openings = {number: opening for number, opening in enumerate(openings) if opening is not None}
        self._sums = {number: torch.zeros_like(self._square(number, None)) for number in self._openings}

    def add(self, gradients: Gradients) -> None:
        for number, opening in self._openings.items():
            if opening.name in gradients:
                self._sums[number] += self._square(number, opening.open(in_float32(gradients[opening.name])))

    def _square(self, number: int, gradient: Tensor | None) -> Tensor:
        """[blocks, outputs, outputs] or [blocks, channels, channels], of the smaller of both."""
        weight = self._weight(number)
        factor = weight if gradient is None else gradient
        if self._wide(weight):
            factor = factor @ weight.mT
        found: Tensor = factor.mT @ factor
        return found

    def _weight(self, number: int) -> Tensor:
        opening = self._openings[number]
        return opening.open(in_float32(self._context.weights[opening.name].detach()))

    @staticmethod
    def _wide(weight: Tensor) -> bool:
        return weight.shape[2] > weight.shape[1]

    def result(self, samples: int) -> _Curvature:
        products = {}
        for number, total in self._sums.items():
            self._context.data.sum(total)
            weight = self._weight(number).double()
            whole = total.double() if self._wide(weight) else weight @ total.double() @ weight.mT
            inputs = self._consumers[number].inputs.square.sum(1).clamp(min=torch.finfo(torch.float64).tiny)
            products[self._consumers[number]] = whole.to(inputs.device) / (samples * inputs[:, None, None])
        return _Curvature(products)


@dataclass(frozen=True, eq=False)
class _Curvature:
    """W G Wᵀ of every consumer that has gradients. [blocks, channels, channels]"""

    products: Mapping[ConsumerStatistics, Tensor]

    def scores(self, consumer: ConsumerStatistics) -> tuple[Ids, Scores]:
        """Units, and twice the loss of removing each."""
        if consumer not in self.products:
            return np.zeros(0, np.int64), np.zeros(0)
        return removal_losses(consumer, self.products[consumer])
