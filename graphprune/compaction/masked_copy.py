"""A copy of a model in which masks are zeros: without the hooks of ``torch.nn.utils.prune``."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from graphprune.errors import InputError
from graphprune.pruning.rewrite import rewrite
from graphprune.utils.checks import did_you_mean
from graphprune.utils.modules import named_modules, named_tensors
from graphprune.utils.prune_masks import prune_masks


def masked_copy(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """A copy in which entries are zero where ``torch.nn.utils.prune``, or one of the masks, masks them.

    Raises:
        InputError: a mask names no parameter, or has another shape.
    """
    copy = rewrite(model, {}, {})
    for _, module in named_modules(copy):
        _make_permanent(module)
    tensors = dict(named_tensors(copy))
    with torch.no_grad():
        for name, mask in masks.items():
            tensor = _masked(tensors, name, mask)
            tensor.mul_((mask != 0).to(tensor))
    return copy


def _make_permanent(module: nn.Module) -> None:
    """Turn what ``prune`` registered (``weight_orig``, ``weight_mask``, a hook) into a plain parameter."""
    for name, _ in list(prune_masks(module)) if prune.is_pruned(module) else ():
        prune.remove(module, name)


def _masked(tensors: Mapping[str, Tensor], name: str, mask: Tensor) -> Tensor:
    tensor = tensors.get(name)
    if tensor is None:
        raise InputError(f"masks: there is no parameter {name!r}{did_you_mean(name, tensors)}")
    if tensor.shape != mask.shape:
        raise InputError(f"masks: the mask of {name} has shape {list(mask.shape)}, the parameter {list(tensor.shape)}")
    return tensor
