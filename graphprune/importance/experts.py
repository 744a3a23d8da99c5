"""The criterion for the experts of a mixture of experts."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphprune.calibration.expert_outputs import ExpertWatcher
from graphprune.calibration.statistics import Statistics
from graphprune.errors import InputError
from graphprune.graph.groups import Group
from graphprune.importance.context import Context
from graphprune.importance.criteria import criterion
from graphprune.importance.magnitude import relative_magnitude
from graphprune.utils.arrays import Ids, Scores

_ROLE = "experts"


@criterion("reap", data=True, help="for experts: gate times norm of the output, averaged over an expert's tokens")
def reap(group: Group, context: Context) -> Tensor:
    """Router-weighted expert activation: mean over the tokens of an expert of gate * ||output||₂. [units]

    The gates of a token are divided by their sum over the experts that it goes to. An expert to which no token goes
    has the score 0. Groups of other roles have their L2 magnitude divided by the group's mean, on the scale that
    ``normalize="mean"`` gives the experts.

    Source: Lasby, Lazarevich, Sinnadurai, Lie, Ioannou and Thangarasa, "REAP the Experts: Why Pruning Prevails for
    One-Shot MoE Compression", 2025 (arXiv:2510.13999).

    Raises:
        InputError: there are no calibration batches, no group of the model has experts, or the product of a gate with
            the output of an expert of this group is not seen in the calculation.
    """
    data = context.data
    if not any(g.role == _ROLE for g in context.units.groups):
        raise InputError(
            "importance: 'reap' scores experts, and the model has none that could go",
            found="no group with the role experts",
            needed="experts whose weights are stacked in one tensor, among which topk chooses",
            do="pass importance='wanda'; graph.why_frozen says why experts stay",
        )
    if group.role != _ROLE:
        return relative_magnitude(group, context)
    return torch.from_numpy(context.once("reap", lambda: _router_weighted(context, data))[group.name])


def _router_weighted(context: Context, data: Statistics) -> dict[str, Scores]:
    """The scores of the units of every group of experts, by its name."""
    groups = [group for group in context.units.groups if group.role == _ROLE]
    owned = [[context.tensors[a.parameter] for a in g.axes if a.parameter in context.tensors] for g in groups]
    numbered = [_axis_classes(group, context) for group in groups]
    watcher = ExpertWatcher(owned, [len(classes) for classes in numbered])
    data.each_forward(lambda _: watcher.batch())
    data.sum(*watcher.sums)
    every = zip(groups, numbered, watcher.sums, strict=True)
    return {group.name: _by_unit(group, context, classes, sums) for group, classes, sums in every}


def _axis_classes(group: Group, context: Context) -> Ids:
    """The classes of all experts, in the order of their numbers. [experts]"""
    axis = next(axis for axis in context.units.axes if axis.parameter_axis == group.axes[0])
    return context.units.labels_of(axis)


def _by_unit(group: Group, context: Context, classes: Ids, sums: Tensor) -> Scores:
    """Means over visits, summed over the experts of a unit. [units]"""
    total, visits = sums.numpy()
    if not visits.any():
        raise _unseen(group)
    unit, expert = context.units.solution.expand(classes, np.arange(len(classes)))
    count = context.units.solution.count
    mean = np.bincount(unit, total[expert], count) / np.bincount(unit, visits[expert], count).clip(min=1)
    scores: Scores = mean[group.unit_ids]
    return scores


def _unseen(group: Group) -> InputError:
    return InputError(
        f"importance: 'reap' does not see a gate multiplied with the output of an expert of {group.name}",
        where=f"group {group.name!r}",
        found="no product of scores that topk chose, or that are gathered by its numbers, with outputs of experts",
        needed="outputs of experts [..., channels] times gates [..., 1], with one row for each visit of a token",
        do="pass importance='wanda', or your own function (group, context) -> scores",
    )
