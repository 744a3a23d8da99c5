"""Criteria that read weights, or nothing at all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from graphprune.errors import InputError
from graphprune.graph.groups import Group
from graphprune.graph.parameter_uses import consumed_axes, scale_axes
from graphprune.importance.context import Context
from graphprune.rules.labels import ParameterAxis

_TINY = torch.finfo(torch.float64).tiny


def magnitude(order: float) -> Callable[[Group, Context], Tensor]:
    """Group magnitude: the sum of |w|**order over all parameter entries that go with a unit. [units]

    Source: Li, Kadav, Durdanovic, Samet and Graf, "Pruning Filters for Efficient ConvNets", ICLR 2017, extended to
    coupled parameters as in Fang, Ma, Song, Bi Mi and Wang, "DepGraph: Towards Any Structural Pruning", CVPR 2023.
    """

    def score(group: Group, context: Context) -> Tensor:
        return torch.from_numpy(context.coupled_norms(group, order))

    return score


def relative_magnitude(group: Group, context: Context) -> Tensor:
    """L2 magnitude relative to the group's mean: what criteria fall back on for groups that they cannot judge."""
    norms = torch.from_numpy(context.coupled_norms(group, 2))
    return norms / norms.mean().clamp(min=_TINY)


def random(group: Group, context: Context) -> Tensor:
    """Random scores, the same for the same seed and group name on every machine. [units]"""
    words = np.frombuffer(group.name.encode(), np.uint8)
    generator = np.random.default_rng([context.seed, *words.tolist()])
    return torch.from_numpy(generator.random(group.units))


def lamp(group: Group, context: Context) -> Tensor:
    """Layer-adaptive magnitude: s_j / sum of s_k over all units k of the group that are no smaller. [units]

    s_j is the squared norm of the unit's coupled parameters. It is the share of what is left that goes with the unit,
    once all smaller ones have gone, so that the largest unit of every group has 1 and scores of groups can be compared:
    they are not normalized unless asked. Among equal units, the earlier counts as the smaller.

    Source: Lee, Park, Mo, Ahn and Shin, "Layer-Adaptive Sparsity for the Magnitude-based Pruning", ICLR 2021, with
    units in place of single weights.
    """
    norms = torch.from_numpy(context.coupled_norms(group, 2))
    ascending, order = norms.sort(stable=True)
    left = ascending.flip(0).cumsum(0).flip(0)
    return torch.empty_like(norms).index_copy_(0, order, ascending / left.clamp(min=_TINY))


def fpgm(group: Group, context: Context) -> Tensor:
    """Distance from the geometric median: sum over k of ||F_j - F_k||. [units]

    F_j are all weights that make unit j (rows of matrices and filters that produce it), one after the other; weights
    that read it do not count, nor do vectors (biases, norms) beside matrices. A unit near all others can be
    replaced by them.

    Source: He, Liu, Wang, Hu and Yang, "Filter Pruning via Geometric Median for Deep Convolutional Neural Networks
    Acceleration", CVPR 2019.
    """
    squares = torch.zeros(group.units, group.units, dtype=torch.float64)
    for axis in _makers(group, context):
        rows = context.rows(group, axis)
        squares += torch.cdist(rows, rows).square().cpu()
    return squares.sqrt().sum(1)


def _makers(group: Group, context: Context) -> list[ParameterAxis]:
    """The axes of parameters along which a group's channels are made."""
    consumed = context.once("consumed", lambda: consumed_axes(context.units.labelling))
    known = (axis for axis in group.axes if axis.parameter in context.tensors)
    rank = {axis: context.tensors[axis.parameter].ndim for axis in known}
    makers = [axis for axis in rank if axis not in consumed] or list(rank)
    return [axis for axis in makers if rank[axis] > 1] or makers


def bn_scale(group: Group, context: Context) -> Tensor:
    """Scale of normalization: sum of |gamma| of the batch, layer and group normalizations of the unit. [units]

    A group without any has its L2 magnitude relative to its mean, which is what ``normalize="mean"`` makes of the
    others, so that the two can be compared.

    Source: Liu, Li, Shen, Huang, Yan and Zhang, "Learning Efficient Convolutional Networks through Network Slimming",
    ICCV 2017.

    Raises:
        InputError: no group of the model has one.
    """
    axes = context.once("scales", lambda: scale_axes(context.units.labelling))
    if not any(context.has_axis(g, axes) for g in context.units.groups):
        raise InputError(
            "importance: 'bn_scale' reads the factors of normalizations, and none goes with any group; use 'l2'"
        )
    if not context.has_axis(group, axes):
        return relative_magnitude(group, context)
    names = {axis.parameter for axis in axes}
    entries = context.once("gammas", lambda: lambda name, tensor: tensor.abs() if name in names else None)
    return torch.from_numpy(context.saliency(group, entries))
