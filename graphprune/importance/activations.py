"""Criteria that read the inputs of a unit's consumers, the weights that sum over it.

A group without consumers (queries and keys, which are multiplied with each other) is scored by its L2 magnitude divided
by the group's mean, on the scale that ``normalize="mean"`` gives the other groups.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphprune.calibration.moments import ConsumerStatistics
from graphprune.graph.groups import Group
from graphprune.importance.context import ConsumerScores, Context
from graphprune.importance.criteria import criterion
from graphprune.importance.magnitude import relative_magnitude
from graphprune.utils.arrays import Ids, Scores

SCHUR_RIDGE = 1e-3
"""Ridge term added to the diagonal of the second moments, relative to the diagonal's mean."""
_LEAST_MOMENT = 1e-100
"""Stands for that mean where inputs do not vary: small beside all others, with an inverse that can be worked with."""


@criterion("wanda", data=True, help="weights times the norm of their inputs")
def wanda(group: Group, context: Context) -> Tensor:
    """Weights times activations: sum of |W_ij| * sqrt(E[x_j²]) over the outputs i of all consumers. [units]

    Source: Sun, Liu, Bair and Kolter, "A Simple and Effective Pruning Approach for Large Language Models", ICLR 2024;
    summed over outputs for whole channels as by An et al. (see :func:`flap`).
    """
    return _scored(group, context, _wanda)


def _wanda(consumer: ConsumerStatistics) -> tuple[Ids, Scores]:
    return _by_place(consumer, consumer.absolute * consumer.inputs.square.sqrt())


@criterion("flap", data=True, help="squared weights times the variance of their inputs")
def flap(group: Group, context: Context) -> Tensor:
    """Fluctuation: sum of Var[x_j] * ||W_j||² over all consumers. [units]

    It is the error that remains after a bias has replaced the channel by its mean.

    Source: An, Zhao, Yu, Tang and Wang, "Fluctuation-based Adaptive Structured Pruning for Large Language Models",
    AAAI 2024.
    """
    return _scored(group, context, _flap)


def _flap(consumer: ConsumerStatistics) -> tuple[Ids, Scores]:
    return _by_place(consumer, consumer.squares * consumer.inputs.variance)


@criterion("schur", data=True, help="squared output error that remains after least squares reconstruction")
def schur(group: Group, context: Context) -> Tensor:
    """Output error of the consumers after removal and least squares: ||W_j||² / [(G + λI)^-1]_jj. [units]

    G are the second moments of a consumer's input, centered if the consumer has a bias, which then absorbs the mean; λ
    is :data:`SCHUR_RIDGE` times the mean of G's diagonal. The score is the squared error of the consumer's output after
    ridge regression on the remaining channels. A unit with several channels S (a head) has trace(W_S M^-1 W_Sᵀ) with
    M = [(G + λI)^-1]_SS, the inverse of the Schur complement of the kept channels. For kernels larger than 1, all
    kernel positions share the moments of their channel, an approximation, unless ``Statistics(kernel_positions=True)``.

    Source: Meng, Ibrahim, Behdin, Hazimeh, Ponomareva and Mazumder, "OSSCAR: One-Shot Structured Pruning in Vision
    and Language Models with Combinatorial Optimization", ICML 2024; Ling, Wang, Yan and Liu, "SlimGPT: Layer-wise
    Structured Pruning for Large Language Models", NeurIPS 2024. The formula for one weight: Hassibi and Stork,
    "Second order derivatives for network pruning: Optimal Brain Surgeon", NeurIPS 1992.
    """
    return _scored(group, context, _schur, products=True)


def _schur(consumer: ConsumerStatistics) -> tuple[Ids, Scores]:
    assert consumer.products is not None
    return removal_losses(consumer, consumer.products)


def removal_losses(consumer: ConsumerStatistics, products: Tensor) -> tuple[Ids, Scores]:
    """For each unit, trace(P_SS M^-1) of its channels S, with M^-1 the Schur complement of all other channels.

    Args:
        consumer: a weight W, with second moments of its inputs.
        products: P, W Wᵀ for the squared error of the outputs, or with a weight between. [blocks, channels, channels]

    Returns:
        Units, and a number for each.
    """
    inverse = torch.linalg.inv(regularized_moments(consumer))
    units, scores = [np.zeros(0, np.int64)], [np.zeros(0)]
    for unit, block, channel in _parts(consumer):
        where = (block[:, None, None], channel[:, :, None], channel[:, None, :])
        loss = torch.linalg.solve(inverse[where], products[where]).diagonal(dim1=1, dim2=2).sum(1)
        units.append(unit)
        scores.append(loss.cpu().numpy())
    return np.concatenate(units), np.concatenate(scores)


def regularized_moments(consumer: ConsumerStatistics, ridge: float = SCHUR_RIDGE) -> Tensor:
    """The second moments of a consumer's inputs, centered if it has a bias, plus λI. [blocks, channels, channels]

    Args:
        consumer: a weight, with second moments of its inputs.
        ridge: λ, in units of the mean of their diagonal.
    """
    moments = consumer.inputs.covariance if consumer.intercept else consumer.inputs.second
    diagonal = moments.diagonal(dim1=1, dim2=2)
    added = ridge * diagonal.mean(1).clamp(min=_LEAST_MOMENT)
    identity = torch.eye(moments.shape[-1], dtype=moments.dtype, device=moments.device)
    return moments + added[:, None, None] * identity


def _parts(consumer: ConsumerStatistics) -> list[tuple[Ids, Ids, Ids]]:
    """The channels of each unit in each block: unit [n], block [n], channels [n, size]; one item for each size."""
    block, channel = np.divmod(consumer.place, consumer.absolute.shape[1])
    order = np.lexsort((channel, block, consumer.unit))
    unit, block, channel = consumer.unit[order], block[order], channel[order]
    new = np.flatnonzero((np.diff(unit, prepend=-1) != 0) | (np.diff(block, prepend=-1) != 0))
    size = np.diff(new, append=len(unit))
    return [
        (unit[first], block[first], channel[first[:, None] + np.arange(n)])
        for n in np.unique(size).tolist()
        for first in [new[size == n]]
    ]


def _by_place(consumer: ConsumerStatistics, scores: Tensor) -> tuple[Ids, Scores]:
    """Each unit's entries of ``scores`` [blocks, channels]."""
    return consumer.unit, scores.flatten().cpu().numpy()[consumer.place]


def _scored(group: Group, context: Context, scores_of: ConsumerScores, products: bool = False) -> Tensor:
    found = context.over_consumers(group, scores_of, products)
    return relative_magnitude(group, context) if found is None else torch.from_numpy(found)
