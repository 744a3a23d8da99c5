"""Saved plans and a model that went through none or some of them: which are left, and do they fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from graphprune.errors import LoadError, PlanError
from graphprune.pruning.plan import Plan, plans_of
from graphprune.utils.checks import with_article
from graphprune.utils.deepcopy import copy_module
from graphprune.utils.modules import all_tensors


def remaining_plans(model: nn.Module, saved: Sequence[Plan], what: str, earlier: int = 0) -> tuple[Plan, ...]:
    """The saved plans that a model has not gone through yet.

    Args:
        model: went through ``earlier`` plans that were not saved, and after them through the first of the saved ones.
        what: names what was saved, in messages.

    Raises:
        LoadError: it went through other ones.
    """
    done = plans_of(model)[earlier:]
    same = len(done) <= len(saved) and all(a.to_json() == b.to_json() for a, b in zip(done, saved, strict=False))
    if not same or len(plans_of(model)) < earlier:
        raise LoadError(
            f"model: was pruned {len(plans_of(model))} times, but not as the {what}'s model was (pruned "
            f"{earlier + len(saved)} times)",
            where=what,
            found=f"{with_article(type(model).__name__)} that was pruned {len(plans_of(model))} times",
            needed=f"one that was pruned as the {what}'s model was, or the dense one",
            do="pass the dense model that the training began with",
        )
    return tuple(saved[len(done) :])


def replayed_without_data(model: nn.Module, plans: Iterable[Plan], what: str) -> nn.Module:
    """What the plans make of a copy of the model on ``meta``; ``what`` names in messages where the plans are from.

    Raises:
        LoadError: they are not for this model, or do not follow from each other.
    """
    copy = copy_module(model, {id(t): _without_data(t) for t in all_tensors(model)})
    try:
        for plan in plans:
            copy = plan.apply(copy, inplace=True)
    except PlanError as error:
        raise LoadError(
            f"model: {what} is not of this {type(model).__name__}: {error.what}",
            where="\n".join(filter(None, (what, error.place))),
            found=error.found,
            needed=error.needed,
            do="pass the model that was pruned, before pruning (run it once if its forward makes what is missing)",
        ) from error
    return copy


def _without_data(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
