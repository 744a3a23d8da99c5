"""The registry of importance criteria, and the scores of a group by one of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from graphprune.errors import InputError, PlanError
from graphprune.graph.groups import Group
from graphprune.importance.combining import NORMALIZATIONS
from graphprune.importance.context import Context
from graphprune.utils.arrays import Scores
from graphprune.utils.checks import check_callable, check_known, found_value, is_defined_again, name_of, with_article

Importance = Callable[[Group, Context], Tensor]
"""``(group, context) -> scores [units]``, higher for units that matter more."""

F = TypeVar("F", bound=Importance)


@dataclass(frozen=True)
class Criterion:
    """An importance criterion.

    Attributes:
        name: its name, as in ``plan(importance="taylor")``.
        score: ``(group, context) -> scores [units]``.
        data: it reads :attr:`Context.data`, so it needs calibration batches.
        comparable: its scores mean the same in every group (a change of the loss, a share of the group), so they are
            not normalized within each group by default.
        additive: the sum of the scores of units that are gone is what is lost by all of them together; False: what is
            lost grows faster than the sum (see :func:`graphprune.planning.removal_paths.make_path`).
        weights: it reads weights; False: it also works on a model on the ``meta`` device.
        help: one line for lists of criteria.
    """

    name: str
    score: Importance
    data: bool = False
    comparable: bool = False
    weights: bool = True
    help: str = ""
    additive: bool = False

    def __str__(self) -> str:
        traits = {
            "needs calibration batches": self.data,
            "comparable between groups": self.comparable,
            "adds up": self.additive,
            "reads no weights": not self.weights,
        }
        notes = ", ".join(trait for trait, holds in traits.items() if holds)
        return f"{self.name}{self.help and ': '}{self.help}{notes and f' ({notes})'}"


AUTO = "auto"
"""The importance that stands for the best of several criteria."""

CRITERIA: dict[str, Criterion] = {}
"""All registered criteria by name."""


def criterion(
    name: str,
    *,
    data: bool = False,
    comparable: bool = False,
    weights: bool = True,
    help: str = "",
    additive: bool = False,
) -> Callable[[F], F]:
    """Register a function ``(group, context) -> scores [units]`` as an importance criterion.

    ::

        @graphprune.criterion("spread", help="largest minus smallest weight")
        def spread(group, context): ...

        graph.plan(0.5, importance="spread")

    Args:
        name: the name for ``importance=``.
        data: it reads ``context.data``, so it needs calibration batches.
        comparable: its scores are comparable between groups: not normalized within each group by default.
        weights: it reads weights; False: it also works on a model on the ``meta`` device.
        help: one line for lists of criteria.
        additive: the scores of units that are gone add up to what is lost by all of them together, as where units were
            scored one after another.

    Returns:
        A decorator that returns the function unchanged.

    Raises:
        InputError: ``name`` is not a string, is empty, is ``"auto"``, or is the name of another criterion. A function
            that is defined again (the cell of a notebook that is run twice) takes the place of the earlier one.
    """
    if not isinstance(name, str) or not name:
        raise InputError(
            f'name: must be a string that is not empty, as in @criterion("mine"), but is {name!r}',
            found=found_value(name),
            needed="a string that is not empty",
            do='write @criterion("mine")',
        )

    if name == AUTO:
        raise InputError(
            f"name: importance={AUTO!r} stands for the best of several criteria, and is no name of one",
            found=f"the name {name!r}",
            needed=f"a name other than {AUTO!r}",
            do="give the criterion another name",
        )

    def register(function: F) -> F:
        known = CRITERIA[name].score if name in CRITERIA else None
        if known is not None and not is_defined_again(function, known):
            raise InputError(
                f"name: {name!r} is a criterion already: {known.__module__}.{name_of(known)}",
                where=f"{known.__module__}.{name_of(known)}",
                found=f"the name {name!r}",
                needed=f"a name that is none of {', '.join(CRITERIA)}",
                do="give the criterion another name",
            )
        check_callable("function", function, _SCORES, takes="group, context")
        CRITERIA[name] = Criterion(name, function, data, comparable, weights, help, additive)
        return function

    return register


def find_criterion(importance: str | Importance) -> Criterion:
    """The record of a criterion, given its name or its function.

    A function that is not registered is taken to read weights, and its scores to need normalization.

    Raises:
        InputError: there is no criterion of this name.
    """
    if callable(importance):
        check_callable("importance", importance, _SCORES, takes="group, context")
        known = (c for c in CRITERIA.values() if c.score is importance)
        return next(known, None) or Criterion(name_of(importance), importance)
    others = ", or a callable (group, context) -> 1-D tensor with one score per unit"
    return CRITERIA[check_known("importance", importance, CRITERIA, others)]


def _advice_on_infinite(criterion: Criterion, group: Group) -> str:
    """What to do about scores that cannot be ranked."""
    weights = f"look for NaN and for values too large to be squared in the weights of {group.name!r}"
    if criterion.data:
        return f"{weights} and in the calibration data, or use importance='l2'"
    return weights if criterion.name in CRITERIA else f"{weights} and in what the function returns"


_SCORES = "a function (group, context) -> one score for each unit"


def scored(criterion: Criterion, group: Group, context: Context) -> Scores:
    """The scores of a group by a criterion, checked, and normalized as the context says. [units]

    Raises:
        InputError: the criterion reads data, and there are no calibration batches.
        PlanError: the criterion did not return one finite number for each unit.
    """
    values = criterion.score(group, context)
    if not isinstance(values, Tensor):
        raise PlanError(
            f"importance: {criterion.name} returned {with_article(type(values).__name__)} for group {group.name!r}",
            where=f"group {group.name!r}",
            found=found_value(values),
            needed=f"a tensor with one score for each of its {group.units} units",
            do="return such a tensor, on any device",
        )
    if values.shape != (group.units,):
        raise PlanError(
            f"importance: returned shape {list(values.shape)} for group {group.name!r}; one score for each of its "
            f"{group.units} units is needed",
            where=f"group {group.name!r}",
            found=f"shape {list(values.shape)}",
            needed=f"shape [{group.units}]",
            do="reduce the scores to one for each unit, such as scores.sum(1)",
        )
    if values.layout is not torch.strided or values.is_meta or values.is_complex():
        kind = f"{values.dtype}, {values.layout}, on {values.device}"
        raise PlanError(
            f"importance: {criterion.name} returned scores that cannot be ranked for group {group.name!r}: {kind}",
            where=f"group {group.name!r}",
            found=f"a tensor of {kind}",
            needed="real numbers in a dense tensor that has values",
            do="return scores.abs() of complex numbers, scores.to_dense() of sparse ones; on meta there are none",
        )
    scores = values.detach().to(device="cpu").double().numpy()
    wrong = int((~np.isfinite(scores)).sum())
    if wrong:
        raise PlanError(
            f"importance: {wrong} of {group.units} scores of group {group.name!r} are not finite",
            where=f"group {group.name!r}",
            found=f"{wrong} scores that are infinite or NaN",
            needed="finite scores, which can be ranked",
            do=_advice_on_infinite(criterion, group),
        )
    default = "none" if criterion.comparable else "mean"
    return NORMALIZATIONS[context.normalize or default](scores)
