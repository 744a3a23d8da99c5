"""Criteria that read only weights, and random scores."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphprune.errors import InputError
from graphprune.graph.groups import Group
from graphprune.graph.parameter_uses import consumed_axes, scale_axes
from graphprune.importance.context import Context
from graphprune.importance.criteria import criterion
from graphprune.rules.labels import ParameterAxis
from graphprune.utils.random_state import WORD

_TINY = torch.finfo(torch.float64).tiny


@criterion("l1", help="sum of |w| over the unit's coupled parameters")
def l1(group: Group, context: Context) -> Tensor:
    """L1 group magnitude: the sum of |w| over all coupled parameter entries of a unit. [units]

    Source: Li, Kadav, Durdanovic, Samet and Graf, "Pruning Filters for Efficient ConvNets", ICLR 2017, extended to
    coupled parameters as in Fang, Ma, Song, Bi Mi and Wang, "DepGraph: Towards Any Structural Pruning", CVPR 2023.
    """
    return torch.from_numpy(context.coupled_norms(group, 1))


@criterion("l2", help="sum of w² over the unit's coupled parameters")
def l2(group: Group, context: Context) -> Tensor:
    """L2 group magnitude: the sum of w² over all coupled parameter entries of a unit. [units]

    Source: as for :func:`l1`.
    """
    return torch.from_numpy(context.coupled_norms(group, 2))


def relative_magnitude(group: Group, context: Context) -> Tensor:
    """L2 magnitude divided by the group's mean, the fallback of criteria that do not apply to a group. [units]"""
    norms = torch.from_numpy(context.coupled_norms(group, 2))
    return norms / norms.mean().clamp(min=_TINY)


@criterion("random", weights=False, help="random numbers that depend on seed= and the group's name")
def random(group: Group, context: Context) -> Tensor:
    """Random scores, the same for the same seed and group name on every machine. [units]"""
    words = np.frombuffer(group.name.encode(), np.uint8)
    generator = np.random.default_rng([context.seed % WORD, *words.tolist()])
    return torch.from_numpy(generator.random(group.units))


@criterion("lamp", comparable=True, help="layer-adaptive magnitude, relative to all larger units of the group")
def lamp(group: Group, context: Context) -> Tensor:
    """Layer-adaptive magnitude: s_j / sum of s_k over all units k of the group that are no smaller. [units]

    s_j is the squared norm of the unit's coupled parameters. The score is the unit's share of the magnitude that is
    left after removing all smaller units. The largest unit of every group has score 1, so scores are comparable
    between groups. Of equal units, the earlier counts as the smaller.

    Source: Lee, Park, Mo, Ahn and Shin, "Layer-Adaptive Sparsity for the Magnitude-based Pruning", ICLR 2021, with
    units in place of single weights.
    """
    norms = torch.from_numpy(context.coupled_norms(group, 2))
    ascending, order = norms.sort(stable=True)
    left = ascending.flip(0).cumsum(0).flip(0)
    return torch.empty_like(norms).index_copy_(0, order, ascending / left.clamp(min=_TINY))


@criterion("fpgm", help="distance from the geometric median of the group's filters")
def fpgm(group: Group, context: Context) -> Tensor:
    """Distance from the geometric median: sum over k of ||F_j - F_k||. [units]

    F_j concatenates the weights whose output is unit j (rows of matrices, filters). Weights that have the unit as input
    do not count, nor do vectors (biases, normalization weights) where there are matrices. A unit near all others can
    be replaced by them.

    Source: He, Liu, Wang, Hu and Yang, "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
    Acceleration", CVPR 2019.
    """
    squares = torch.zeros(group.units, group.units, dtype=torch.float64, device="cpu")
    for axis in _output_axes(group, context):
        rows = context.rows(group, axis)
        squares += torch.cdist(rows, rows).square().cpu()
    return squares.sqrt().sum(1)


def _output_axes(group: Group, context: Context) -> list[ParameterAxis]:
    """The parameter axes that have the group's channels as outputs."""
    consumed = context.once("consumed", lambda: consumed_axes(context.units.labeling))
    known = (axis for axis in group.axes if axis.parameter in context.tensors)
    rank = {axis: context.tensors[axis.parameter].ndim for axis in known}
    outputs = [axis for axis in rank if axis not in consumed] or list(rank)
    return [axis for axis in outputs if rank[axis] > 1] or outputs


@criterion("bn_scale", help="sum of |gamma| of the unit's normalizations")
def bn_scale(group: Group, context: Context) -> Tensor:
    """Normalization scale: sum of |gamma| of the batch, layer and group normalizations of a unit. [units]

    For a group without normalization: L2 magnitude divided by the group's mean, on the scale that ``normalize="mean"``
    gives the other groups.

    Source: Liu, Li, Shen, Huang, Yan and Zhang, "Learning Efficient Convolutional Networks through Network Slimming",
    ICCV 2017.

    Raises:
        InputError: no group of the model has a normalization.
    """
    axes = context.once("scales", lambda: scale_axes(context.units.labeling))
    if not any(context.has_axis(g, axes) for g in context.units.groups):
        raise InputError(
            "importance: 'bn_scale' reads the factors of normalizations, and none goes with any group",
            found="no batch or layer normalization with a weight that goes with a group",
            needed="one such normalization at least",
            do="pass importance='l2'",
        )
    if not context.has_axis(group, axes):
        return relative_magnitude(group, context)
    names = {axis.parameter for axis in axes}
    entries = context.once("gammas", lambda: lambda name, tensor: tensor.abs() if name in names else None)
    return torch.from_numpy(context.saliency(group, entries))
