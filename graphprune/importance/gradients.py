"""Criteria that read gradients of a loss on calibration batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from graphprune.calibration.statistics import Gradients
from graphprune.graph.groups import Group
from graphprune.importance.context import Context
from graphprune.importance.criteria import criterion
from graphprune.importance.parameter_entries import AxisSums, axis_sums
from graphprune.utils.arrays import Scores


@criterion("taylor", data=True, comparable=True, help="first-order change of the loss when the unit is removed")
def taylor(group: Group, context: Context) -> Tensor:
    """First-order change of the loss without a unit: E over samples of (sum of g * w over its parameters)². [units]

    g is the gradient of a sample's loss. Signed products are summed within each coupled axis and reduced over the axes,
    then squared. This is twice the Fisher information of a gate on the unit (Theis et al. 2018, see :func:`fisher`).

    Source: Molchanov, Mallya, Tyree, Frosio and Kautz, "Importance Estimation for Neural Network Pruning", CVPR 2019.
    There g is the gradient of a mini-batch's mean loss, and scores depend on its size; a sample's does not.
    """
    return torch.from_numpy(context.once("taylor", lambda: _expected_squares(context))[group.unit_ids])


def _expected_squares(context: Context) -> Scores:
    total = np.zeros(context.units.solution.count)

    def visit(gradients: Gradients) -> None:
        np.add(total, np.square(context.over_parameters(_products_with(gradients))), out=total)

    samples = context.data.each_backward(visit)
    context.data.sum(torch.from_numpy(total))
    return total / samples


def _products_with(gradients: Gradients) -> AxisSums:
    """Sums of g * w along each dimension of a parameter; None without a gradient."""

    def sums(name: str, tensor: Tensor, dims: Sequence[int]) -> list[Scores] | None:
        gradient = gradients.get(name)
        return None if gradient is None else axis_sums(in_float32(tensor.detach()) * in_float32(gradient), dims)

    return sums


@criterion("fisher", data=True, comparable=True, help="second-order change of the loss, with a diagonal Fisher matrix")
def fisher(group: Group, context: Context) -> Tensor:
    """Second-order change of the loss, with a diagonal Fisher matrix for the Hessian: sum of 1/2 w² E[g²]. [units]

    The sum is over the entries of all coupled parameters. E is the mean over samples of the squared gradient of a
    sample's loss.

    Source: LeCun, Denker and Solla, "Optimal Brain Damage", NeurIPS 1989 (published 1990); with Fisher information
    Theis, Korshunova, Tejani and Huszár, "Faster gaze prediction with dense networks and Fisher pruning", 2018
    (arXiv:1801.05787); Singh and Alistarh, "WoodFisher: Efficient Second-Order Approximation for Neural Network
    Compression", NeurIPS 2020.
    """
    entries = context.once("fisher", lambda: _fisher_entries(context))
    return torch.from_numpy(context.saliency(group, entries))


def _fisher_entries(context: Context) -> Callable[[str, Tensor], Tensor | None]:
    squares: dict[str, Tensor] = {}

    def visit(gradients: Gradients) -> None:
        for name, gradient in gradients.items():
            gradient = in_float32(gradient)
            if name in squares:
                squares[name].addcmul_(gradient, gradient)
            else:
                squares[name] = gradient.square()

    samples = context.data.each_backward(visit)
    for name in filter(context.tensors.__contains__, context.data.communicator.union(squares)):
        if name not in squares:  # there is no gradient in this process, but in another
            squares[name] = torch.zeros_like(in_float32(context.tensors[name].detach()))
        context.data.sum(squares[name])
    return lambda name, w: in_float32(w).square().mul_(squares[name]).mul_(0.5 / samples) if name in squares else None


def in_float32(tensor: Tensor) -> Tensor:
    """A tensor of a narrower type widened, so that squares and sums of small gradients are not rounded to zero."""
    return tensor.float() if tensor.is_floating_point() and tensor.dtype.itemsize < 4 else tensor
