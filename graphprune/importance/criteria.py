"""The table of criteria, and scores by one of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from graphprune.errors import InputError, PlanError
from graphprune.graph.groups import Group
from graphprune.importance.activations import flap, schur, wanda
from graphprune.importance.combining import NORMALIZATIONS
from graphprune.importance.context import Context
from graphprune.importance.gradients import fisher, taylor
from graphprune.importance.magnitude import bn_scale, fpgm, lamp, magnitude, random
from graphprune.utils.arrays import Scores

Importance = Callable[[Group, "Context"], Tensor]


CRITERIA: dict[str, Importance] = {
    "l1": magnitude(1),
    "l2": magnitude(2),
    "random": random,
    "lamp": lamp,
    "fpgm": fpgm,
    "bn_scale": bn_scale,
    "taylor": taylor,
    "fisher": fisher,
    "wanda": wanda,
    "flap": flap,
    "schur": schur,
}


WEIGHTLESS: frozenset[Importance] = frozenset((random,))
"""Criteria that read no weights: they work on a model on ``meta``."""


COMPARABLE: frozenset[Importance] = frozenset((lamp, taylor, fisher))
"""Criteria whose scores mean the same in every group (a change of the loss, a share of the group): not normalized
unless that is asked for."""


WITH_DATA: frozenset[Importance] = frozenset((taylor, fisher, wanda, flap, schur))
"""Criteria that need calibration data."""


def criterion(importance: str | Importance) -> Importance:
    """The criterion by name, or a callable ``(group, context) -> Tensor of shape [units]`` as it is."""
    if callable(importance):
        return importance
    if importance not in CRITERIA:
        raise InputError(
            f"importance: {importance!r} is not known; use one of {', '.join(map(repr, CRITERIA))}, or a callable "
            "(group, context) -> 1-D tensor with one score per unit"
        )
    return CRITERIA[importance]


def scored(importance: Importance, group: Group, context: Context) -> Scores:
    """The scores of a group, checked, and normalized as the context says. [units]

    Raises:
        PlanError: the criterion gave something else than one number for each unit.
    """
    values = importance(group, context)
    if values.shape != (group.units,):
        raise PlanError(
            f"importance: returned shape {list(values.shape)} for group {group.name!r}; one score for each of its "
            f"{group.units} units is needed"
        )
    scores = values.detach().to(device="cpu").double().numpy()
    wrong = int((~np.isfinite(scores)).sum())
    if wrong:
        raise PlanError(f"importance: {wrong} of {group.units} scores of group {group.name!r} are not finite")
    own = "none" if any(importance is c for c in COMPARABLE) else "mean"
    return NORMALIZATIONS[context.normalize or own](scores)
