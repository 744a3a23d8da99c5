"""Criteria that read gradients of a loss on calibration batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from graphprune.calibration.statistics import Gradients
from graphprune.graph.groups import Group
from graphprune.importance.context import Context, EntryScores
from graphprune.importance.criteria import criterion
from graphprune.importance.gradient_sums import gathered, gradient_sum
from graphprune.importance.parameter_entries import AxisSums, axis_sums
from graphprune.utils.arrays import Scores
from graphprune.utils.complex_numbers import real_parts
from graphprune.utils.tree import as_dense


@criterion("taylor", data=True, comparable=True, help="first-order change of the loss when the unit is removed")
def taylor(group: Group, context: Context) -> Tensor:
    """First-order change of the loss without a unit: E over samples of (sum of g * w over its parameters)². [units]

    g is the gradient of a sample's loss. Signed products are summed within each coupled axis and reduced over the axes,
    then squared. Real and imaginary parts of complex parameters are entries of their own. This is twice the Fisher
    information of a gate on the unit (Theis et al. 2018, see :func:`fisher`).

    Source: Molchanov, Mallya, Tyree, Frosio and Kautz, "Importance Estimation for Neural Network Pruning", CVPR 2019.
    There g is the gradient of a mini-batch's mean loss, and scores depend on its size; a sample's does not.
    """
    return torch.from_numpy(gathered(context, "taylor")[group.unit_ids])


@gradient_sum("taylor")
class _ExpectedSquares:
    """Sums over samples of (the sum of g * w over a unit's parameters)². [classes]"""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._total = np.zeros(context.units.solution.count)

    def add(self, gradients: Gradients) -> None:
        self._total += np.square(self._context.over_parameters(_products(self._context.tensors, gradients)))

    def result(self, samples: int) -> Scores:
        self._context.data.sum(torch.from_numpy(self._total))
        return self._total / samples


def _products(tensors: Mapping[str, Tensor], gradients: Gradients) -> AxisSums:
    """Sums of g * w along each dimension of a parameter, of complex ones by parts; None without a gradient."""

    def sums(name: str, _: Tensor, dims: Sequence[int]) -> list[Scores] | None:
        gradient = gradients.get(name)
        return None if gradient is None else axis_sums(_entries(tensors[name]) * _entries(gradient), dims)

    return sums


@criterion("fisher", data=True, comparable=True, help="second-order change of the loss, with a diagonal Fisher matrix")
def fisher(group: Group, context: Context) -> Tensor:
    """Second-order change of the loss, with a diagonal Fisher matrix for the Hessian: sum of 1/2 w² E[g²]. [units]

    The sum is over the entries of all coupled parameters; real and imaginary parts of complex ones are entries of their
    own. E is the mean over samples of the squared gradient of a sample's loss.

    Source: LeCun, Denker and Solla, "Optimal Brain Damage", NeurIPS 1989 (published 1990); with Fisher information
    Theis, Korshunova, Tejani and Huszár, "Faster gaze prediction with dense networks and Fisher pruning", 2018
    (arXiv:1801.05787); Singh and Alistarh, "WoodFisher: Efficient Second-Order Approximation for Neural Network
    Compression", NeurIPS 2020.
    """
    return torch.from_numpy(context.saliency(group, gathered(context, "fisher")))


@gradient_sum("fisher")
class _SquaredGradients:
    """Sums over samples of the squares of all gradients, of complex ones by parts, by the name of the parameter."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._squares: dict[str, Tensor] = {}

    def add(self, gradients: Gradients) -> None:
        for name, gradient in gradients.items():
            entries = _entries(as_dense(gradient))  # that of a sparse embedding has an entry for each lookup
            if name in self._squares:
                self._squares[name].addcmul_(entries, entries)
            else:
                self._squares[name] = entries.square()

    def result(self, samples: int) -> EntryScores:
        data, tensors, squares = self._context.data, self._context.tensors, self._squares
        for name in filter(tensors.__contains__, data.communicator.union(squares)):
            if name not in squares:  # there is no gradient in this process, but in another
                squares[name] = torch.zeros_like(_entries(tensors[name]))
            data.sum(squares[name])

        def scores(name: str, _: Tensor) -> Tensor | None:
            if name not in squares:
                return None
            found = _entries(tensors[name]).square().mul_(squares[name]).mul_(0.5 / samples)
            return found.sum(-1) if tensors[name].is_complex() else found

        return scores


def _entries(tensor: Tensor) -> Tensor:
    """The entries of a parameter or its gradient, as they are summed up; of complex ones real and imaginary parts."""
    return in_float32(real_parts(tensor.detach()))


def in_float32(tensor: Tensor) -> Tensor:
    """A tensor of a narrower type widened, so that squares and sums of small gradients are not rounded to zero."""
    return tensor.float() if tensor.is_floating_point() and tensor.dtype.itemsize < 4 else tensor
