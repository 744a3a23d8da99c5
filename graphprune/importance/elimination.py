"""Criteria that remove units one after another, and fit what is left in between."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphprune.calibration.moments import ConsumerStatistics
from graphprune.graph.groups import Group
from graphprune.importance.activations import SCHUR_RIDGE, regularized_moments, removal_losses
from graphprune.importance.context import Context
from graphprune.importance.criteria import criterion
from graphprune.importance.curvature import TWICE
from graphprune.importance.gradient_sums import gather_gradients, gathered
from graphprune.importance.magnitude import relative_magnitude
from graphprune.utils.arrays import Ids, Scores, stable_order

AT_ONCE = 1 / 16
"""So much of the units that are left goes at once, before the rest is fitted anew."""


@criterion(
    "obs",
    data=True,
    comparable=True,
    additive=True,
    help="squared output error that a unit adds when units go one after another, with least squares in between",
)
def obs(group: Group, context: Context) -> Tensor:
    """The rise of the consumers' squared error as units go one after another, the cheapest first. [units]

    At first, a unit's loss is that of ``schur``. When it is gone, the weights of the others are those of least squares,
    and their losses are worked out anew: what a unit could stand in for is worth more without it, which scores that
    are all of the whole layer do not say. So the sum of the scores of all units that are gone is about their error.
    Of the units that are left, :data:`AT_ONCE` go at a time and share the loss of the whole step. No score is below
    those of units that went before. Losses are summed over the consumers of a unit, whatever ``reduce=`` says;
    ``normalize="sum"`` makes them shares of what the consumers give. Consumers with several blocks (grouped
    convolutions) keep the losses of ``schur``.

    Source: Kurtic, Frantar and Alistarh, "ZipLM: Inference-Aware Structured Pruning of Language Models", NeurIPS 2023;
    Hassibi and Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon", NeurIPS 1992.
    """
    found = _eliminated(group, {c: c.products for c in context.data.consumers(products=True) if c.products is not None})
    return relative_magnitude(group, context) if found is None else torch.from_numpy(found)


@criterion(
    "surgeon",
    data=True,
    comparable=True,
    additive=True,
    help="obs by Kronecker-factored curvature: the loss that a unit adds when units go one after another",
)
def surgeon(group: Group, context: Context) -> Tensor:
    """The rise of the loss as units go one after another, the cheapest first, with least squares in between. [units]

    It is to ``obs`` what ``kfac`` is to ``schur``: errors count by what they do to the model's output. A unit that no
    consumer's whole weight reads (queries and keys) has Taylor's estimate. To λ of ``schur`` a layer's channels divided
    by the rows of samples are added, as in repair: least squares of more channels than rows fits them exactly, and
    says that no channel is needed.

    Source: van der Ouderaa, Nagel, van Baalen, Asano and Blankevoort, "The LLM Surgeon", ICLR 2024.
    """
    gather_gradients(context, "kfac", "taylor")
    found = _eliminated(group, gathered(context, "kfac").products, shrink=True)
    losses = gathered(context, "taylor")[group.unit_ids] / TWICE if found is None else found
    return torch.from_numpy(0.5 * losses)


def _eliminated(group: Group, weights: Mapping[ConsumerStatistics, Tensor], shrink: bool = False) -> Scores | None:
    """What each unit of a group adds to the error, in the order in which they go; None: no weight sums over them.

    Args:
        group: the units.
        weights: of each consumer's weight W the products W Wᵀ, or W G Wᵀ. [blocks, channels, channels]
        shrink: least squares towards zero, the more the fewer rows there are for each channel.
    """
    own = {c: products for c, products in weights.items() if np.isin(c.unit, group.unit_ids).any()}
    if not own:
        return None
    fixed, scores, top = np.zeros(group.units), np.zeros(group.units), 0.0
    for consumer, products in own.items():
        if len(products) > 1:
            fixed += _losses_in_blocks(group, consumer, products)
    layers = [_Remaining.of(group, *pair, shrink) for pair in own.items() if len(pair[1]) == 1]
    left = np.arange(group.units)
    while len(left):
        losses = fixed + sum(layer.losses() for layer in layers)
        going = left[stable_order(losses[left])[: max(1, int(AT_ONCE * len(left)))]]
        together = float(fixed[going].sum()) + sum(layer.remove(going) for layer in layers)
        share = losses[going] * together / max(float(losses[going].sum()), np.finfo(float).tiny)
        scores[going] = np.maximum(share, top)
        top = float(scores[going].max())
        left = np.setdiff1d(left, going, assume_unique=True)
    return scores


def _losses_in_blocks(group: Group, consumer: ConsumerStatistics, products: Tensor) -> Scores:
    """Of a consumer with several blocks, the losses of units while all others are there. [units]"""
    units, losses = removal_losses(consumer, products)
    place = _places(group, units)
    found: Scores = np.bincount(place[place >= 0], losses[place >= 0], group.units).astype(np.float64)
    return found


def _places(group: Group, units: Ids) -> Ids:
    """Where units stand in a group; -1: they are not of it."""
    order = np.argsort(group.unit_ids)
    found = order[np.searchsorted(group.unit_ids, units, sorter=order).clip(max=len(order) - 1)]
    return np.where(group.unit_ids[found] == units, found, -1)


@dataclass
class _Remaining:
    """What is left of a consumer's channels.

    Attributes:
        inverse: H, that of the second moments of the channels. [channels, channels]
        products: P = W Wᵀ, or W G Wᵀ, of the weight W as least squares has left it. [channels, channels]
        unit: the place in the group of the unit that each channel belongs to; -1: it stays. [channels]
        units: how many units the group has.
    """

    inverse: Tensor
    products: Tensor
    unit: Ids
    units: int

    @staticmethod
    def of(group: Group, consumer: ConsumerStatistics, products: Tensor, shrink: bool) -> _Remaining:
        """All channels of a consumer that has one block."""
        unit = np.full(consumer.absolute.shape[1], -1)
        place = _places(group, consumer.unit)
        unit[consumer.place[place >= 0]] = place[place >= 0]
        ridge = SCHUR_RIDGE + (len(unit) / consumer.inputs.count if shrink else 0.0)
        inverse = torch.linalg.inv(regularized_moments(consumer, ridge))[0]
        return _Remaining(inverse, products[0].to(inverse), unit, group.units)

    def losses(self) -> Scores:
        """trace(P_SS H_SS^-1) of the channels S of each unit; 0 of those that have none. [units]"""
        found = np.zeros(self.units)
        order = np.argsort(self.unit, kind="stable")
        order = order[self.unit[order] >= 0]
        unit, first, size = np.unique(self.unit[order], return_index=True, return_counts=True)
        for n in np.unique(size).tolist():
            rows = order[first[size == n][:, None] + np.arange(n)]
            where = (rows[:, :, None], rows[:, None, :])
            loss = torch.linalg.solve(self.inverse[where], self.products[where]).diagonal(dim1=1, dim2=2).sum(1)
            found[unit[size == n]] = loss.clamp(min=0).cpu().numpy()
        return found

    def remove(self, units: Ids) -> float:
        """Remove the channels of some units, and fit the weight without them; the error that this adds."""
        going = np.isin(self.unit, units)
        if not going.any():
            return 0.0
        gone, kept = (torch.from_numpy(np.flatnonzero(mask)).to(self.inverse.device) for mask in (going, ~going))
        own, across = self.inverse[gone][:, gone], self.inverse[gone][:, kept]
        part, beside = self.products[gone][:, gone], self.products[gone][:, kept]
        shift = torch.linalg.solve(own, across).mT  # what each channel that stays takes of those that go, negated
        half = shift @ (beside - 0.5 * part @ shift.mT)
        self.inverse = self.inverse[kept][:, kept].addmm_(shift, across, alpha=-1)
        self.products = self.products[kept][:, kept] - half - half.mT
        self.unit = self.unit[~going]
        return max(float(torch.linalg.solve(own, part).diagonal().sum()), 0.0)
