"""The main job in one call."""

from __future__ import annotations

from typing import Any

from torch import nn

from graphprune.graph import trace
from graphprune.importance import Importance


def prune_model(
    model: nn.Module,
    ratio: float,
    example_inputs: Any = None,
    *,
    importance: str | Importance = "l2",
    seed: int = 0,
    head_width: bool = False,
    inplace: bool = False,
) -> nn.Module:
    """A smaller module of the same class, with the fraction ``ratio`` of each group's channels gone.

    Args:
        model: any ``nn.Module``; unchanged unless ``inplace``.
        ratio: fraction of channels removed in each group, 0 <= ratio < 1; no group is emptied.
        example_inputs: a tensor, a tuple, or a dict of keyword arguments; None: found from the model.
        importance: ``"l1"``, ``"l2"``, ``"random"`` or a callable ``(group, context) -> scores [units]``.
        seed: for ``"random"``.
        head_width: shrink attention heads instead of removing whole ones.
        inplace: make the model itself smaller.

    Raises:
        InputError: an argument is out of range, or inputs cannot be guessed.
        TraceError: the model failed in ``forward``.
        PlanError: the model has nothing to prune.
    """
    plan = trace(model, example_inputs).plan(ratio, importance=importance, seed=seed, head_width=head_width)
    return plan.apply(model, inplace=inplace)
