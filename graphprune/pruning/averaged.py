"""The model in which heads that a plan merges are all the same: what the slim model has to equal."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from graphprune.errors import PlanError
from graphprune.pruning.plan import Plan
from graphprune.pruning.rewrite import KeptEntries, MergedEntries, slim_tensor
from graphprune.tracing.meta import is_float
from graphprune.utils.deepcopy import copy_module
from graphprune.utils.modules import all_tensors, copied_as, named_tensors


def with_means(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy of a model in which the mean stands in the place of everything that is merged; its own other tensors."""
    if not plan.merged:
        return model
    tensors = {id(t): t for t in all_tensors(model)}
    for name, tensor in named_tensors(model):
        if name in plan.merged and is_float(tensor):
            tensors[id(tensor)] = _spread(tensor, plan.kept[name], plan.merged[name])
    return copy_module(model, tensors)


def _spread(tensor: Tensor, kept: KeptEntries, merged: MergedEntries) -> Tensor:
    """A tensor of the same shape with the means where their entries are."""
    whole = tensor.detach().clone()
    for dim, others in merged.items():
        mean = slim_tensor(whole, {dim: kept[dim]}, {dim: others}).detach()
        for index in (kept[dim], *others):
            whole.index_copy_(dim, torch.from_numpy(np.ascontiguousarray(index)).to(whole.device), mean)
    return copied_as(tensor, whole)


def mixing(plan: Plan, name: str) -> Tensor:
    """The surviving entries of a parameter as linear combinations of all. f64[slim, dense]"""
    ((dim, others),) = plan.merged[name].items()
    made = torch.zeros(plan.shape(name)[dim], plan.shapes[name][dim], dtype=torch.float64, device="cpu")
    for index in (plan.kept[name][dim], *others):
        made[torch.arange(len(index), device="cpu"), torch.from_numpy(np.ascontiguousarray(index))] += 1
    return made / (1 + len(others))


def refuse_merged(plan: Plan, why: str, do: str) -> None:
    """Raise a PlanError for a plan that merges heads, where that cannot be carried out."""
    if plan.merged:
        raise PlanError(
            f"plan: it merges key/value heads, and {why}",
            where=next(iter(plan.merged)),
            found=f"{len(plan.merged)} parameters of which means survive",
            needed="a plan that removes channels",
            do=do,
        )
