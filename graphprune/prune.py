"""The main job in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from typing_extensions import Unpack

from graphprune.graph import trace
from graphprune.plan import Plan
from graphprune.repair.passes import Batches, Inputs
from graphprune.repair.whole import repair as repair_slim
from graphprune.request import Options


def prune_model(
    model: nn.Module,
    ratio: float | None = None,
    example_inputs: Any = None,
    *,
    inplace: bool = False,
    repair: bool = True,
    **options: Unpack[Options],
) -> nn.Module:
    """A smaller module of the same class, with the fraction ``ratio`` of each group's channels gone.

    Args:
        model: any ``nn.Module``; unchanged unless ``inplace``.
        ratio: fraction of channels removed in each group, 0 <= ratio < 1; no group is emptied. None: ``options`` give
            budgets (``macs=0.5``).
        example_inputs: a tensor, a tuple, or a dict of keyword arguments; None: found from the model.
        inplace: make the model itself smaller.
        repair: with ``calibration`` among the options, let what is left make up for what was removed (see
            :func:`graphprune.repair`); the batches are gone through several times. Without, nothing is repaired.
        options: all other arguments of a plan, see :class:`graphprune.request.Options`.

    Raises:
        InputError: an argument is out of range, inputs cannot be guessed, or calibration batches do not fit.
        TraceError: the model failed in ``forward``.
        PlanError: the model has nothing to prune, or a budget is out of reach.
    """
    calibration = options.get("calibration") if repair else None
    if calibration is not None:
        Batches(calibration)
    plan = trace(model, example_inputs).plan(ratio, **options)
    if calibration is None:
        return plan.apply(model, inplace=inplace)
    slim = repaired(model, plan, calibration, options.get("loss_fn"))
    return _taken_over(model, plan, slim) if inplace else slim


def repaired(model: nn.Module, plan: Plan, calibration: Iterable[Any], loss_fn: Callable[..., Any] | None) -> nn.Module:
    """What the plan makes of the model, repaired; batches are pairs (inputs, target) where there is a ``loss_fn``."""
    slim = plan.apply(model)
    repair_slim(slim, model, plan, calibration if loss_fn is None else Inputs(calibration))
    return slim


def _taken_over(model: nn.Module, plan: Plan, slim: nn.Module) -> nn.Module:
    """The model itself made smaller, with the values of its slim copy."""
    plan.apply(model, inplace=True)
    values = {**dict(slim.named_parameters()), **dict(slim.named_buffers())}
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            tensor.copy_(values[name])
    return model
