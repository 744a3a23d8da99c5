"""Run a slim model as it is: float64, in which it is compared, hides what only its own types make fail.

Converting a tensor gives it memory of its own. Without that, a view of narrower rows may lie where an operation does
not take it (``view_as_complex`` of rows of odd length).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from graphprune.errors import PlanError
from graphprune.tracing.inputs import MethodCall
from graphprune.tracing.places import raised_at
from graphprune.tracing.side_effects import nothing_kept
from graphprune.utils.deepcopy import copy_module
from graphprune.utils.evaluation import eagerly
from graphprune.utils.global_state import changing_globals
from graphprune.utils.modules import all_tensors, copied_as
from graphprune.utils.random_state import random_numbers_kept
from graphprune.utils.switches import set_evaluation


def require_runs(
    slim: nn.Module, calls: Sequence[MethodCall], dense: nn.Module, dense_calls: Sequence[MethodCall]
) -> None:
    """Raise a PlanError if a slim model fails in its own types on inputs on which the dense one does not.

    One that was converted since is not run, for the inputs are of the dense one's types.

    Args:
        slim: a copy of it is run.
        calls: what it is given, one after the other.
        dense: the original.
        dense_calls: what that is given.
    """
    if _types(slim) != _types(dense):
        return
    try:
        _run(slim, calls)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of any kind, as forward is the user's
        if fails(dense, dense_calls):
            return
        raise PlanError(
            f"slim: {type(slim).__name__}.forward failed on the example inputs in its own types: {error}",
            where=raised_at(error) or type(slim).__name__,
            found=f"{type(error).__name__}: {error}",
            needed="a forward that runs with fewer channels in these types too",
            do="remove another number of channels there, as overrides= and multiple= allow, or leave that layer whole",
        ) from error


def _types(model: nn.Module) -> set[torch.dtype]:
    return {parameter.dtype for parameter in model.parameters()}


def fails(model: nn.Module, calls: Sequence[MethodCall]) -> bool:
    """Does a model fail in its own types, as a half-precision one does where the device has no kernels for that?"""
    try:
        _run(model, calls)
    except Exception:  # of any kind, as forward is the user's
        return True
    return False


@torch.no_grad()
@eagerly()
def _run(model: nn.Module, calls: Sequence[MethodCall]) -> None:
    copy = set_evaluation(copy_module(model, {id(t): copied_as(t, t.detach().clone()) for t in all_tensors(model)}))
    with changing_globals(), random_numbers_kept(), nothing_kept(copy):
        for call in calls:
            call.mapped(torch.clone).run(copy)
