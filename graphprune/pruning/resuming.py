"""Saved plans and a model that went through none or some of them: which are left, and do they fit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from graphprune.errors import LoadError, PlanError
from graphprune.pruning.plan import Plan, plans_of, replay
from graphprune.pruning.rewrite import reshape_tensors
from graphprune.utils.checks import with_article
from graphprune.utils.deepcopy import copy_module
from graphprune.utils.modules import all_tensors, copied_as


def remaining_plans(model: nn.Module, saved: Sequence[Plan], what: str, earlier: int = 0) -> tuple[Plan, ...]:
    """The saved plans that a model has not gone through yet.

    Args:
        model: went through ``earlier`` plans that were not saved, and after them through the first of the saved ones.
        what: names what was saved, in messages.

    Raises:
        LoadError: it went through other ones.
    """
    done = plans_of(model)[earlier:]
    if done != tuple(saved[: len(done)]) or len(plans_of(model)) < earlier:
        raise LoadError(
            f"model: was pruned {len(plans_of(model))} times, but not as the {what}'s model was (pruned "
            f"{earlier + len(saved)} times)",
            where=what,
            found=f"{with_article(type(model).__name__)} that was pruned {len(plans_of(model))} times",
            needed=f"one that was pruned as the {what}'s model was, or the dense one",
            do="pass the dense model that the training began with",
        )
    return tuple(saved[len(done) :])


def fitting_plans(model: nn.Module, saved: Sequence[Plan]) -> tuple[Plan, ...]:
    """The saved plans that are left where all values are loaded afterwards, so that shapes alone have to fit.

    A model that went through the first of them is left the others; another one those from the first that fits it on.
    All are left if none fits.
    """
    done = plans_of(model)
    if done and done == tuple(saved[: len(done)]):
        return tuple(saved[len(done) :])
    return next((tuple(saved[i:]) for i, plan in enumerate(saved) if _fits(plan, model)), tuple(saved))


def _fits(plan: Plan, model: nn.Module) -> bool:
    try:
        plan.check(model)
    except PlanError:
        return False
    return True


def replayed_without_data(
    model: nn.Module, plans: Sequence[Plan], what: str, before: int = 0, reshaping: bool = False
) -> nn.Module:
    """What the plans make of a copy of the model on ``meta``.

    Args:
        model: dense, or what other plans left.
        plans: are applied in order.
        what: names in messages where the plans are from.
        before: the number of plans of the same origin that the model is behind already.
        reshaping: layers that got other sizes between two prunings (a head for other classes) get these here too.

    Raises:
        LoadError: they are not for this model, or do not follow from each other.
    """
    copy = copy_module(model, {id(t): copied_as(t, torch.empty_like(t, device="meta")) for t in all_tensors(model)})
    for number, plan in enumerate(plans, before):
        if reshaping and number:
            reshape_tensors(copy, plan.shapes)
        try:
            replay(plan, copy)
        except PlanError as error:
            raise (_changed_between(number, error, what) if number else _of_another(model, error, what)) from error
    return copy


def _of_another(model: nn.Module, error: PlanError, what: str) -> LoadError:
    return LoadError(
        f"model: {what} is not of this {type(model).__name__}: {error.what}",
        where="\n".join(filter(None, (what, error.place))),
        found=error.found,
        needed=error.needed,
        do="pass the model that was pruned, before pruning (run it once if its forward makes what is missing)",
    )


def _changed_between(number: int, error: PlanError, what: str) -> LoadError:
    """What is told if a plan does not fit what the one before it left."""
    return LoadError(
        f"model: {what} was changed between pruning {number} and pruning {number + 1}, and plans do not hold that "
        f"change ({error.what.removeprefix('model: ')})",
        where="\n".join(filter(None, (what, error.place))),
        found=error.found,
        needed=f"the model as it was before its last pruning, with {error.needed}",
        do="pass that: the model that was pruned before (loaded, or made by its plans), with the change made again",
    )
