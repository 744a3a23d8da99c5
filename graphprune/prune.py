"""The main job in one call."""

from __future__ import annotations

from typing import Any

from torch import nn
from typing_extensions import Unpack

from graphprune.graph import trace
from graphprune.request import Options


def prune_model(
    model: nn.Module,
    ratio: float | None = None,
    example_inputs: Any = None,
    *,
    inplace: bool = False,
    **options: Unpack[Options],
) -> nn.Module:
    """A smaller module of the same class, with the fraction ``ratio`` of each group's channels gone.

    Args:
        model: any ``nn.Module``; unchanged unless ``inplace``.
        ratio: fraction of channels removed in each group, 0 <= ratio < 1; no group is emptied. None: ``options`` give
            budgets (``macs=0.5``).
        example_inputs: a tensor, a tuple, or a dict of keyword arguments; None: found from the model.
        inplace: make the model itself smaller.
        options: all other arguments of a plan, see :class:`graphprune.request.Options`.

    Raises:
        InputError: an argument is out of range, or inputs cannot be guessed.
        TraceError: the model failed in ``forward``.
        PlanError: the model has nothing to prune, or a budget is out of reach.
    """
    plan = trace(model, example_inputs).plan(ratio, **options)
    return plan.apply(model, inplace=inplace)
