"""A copy of a model in which masks are zeros: without the hooks of ``torch.nn.utils.prune``."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from graphprune.errors import InputError
from graphprune.planning.chosen_channels import check_mask
from graphprune.pruning.rewrite import rewrite
from graphprune.sparsity.permanent import make_permanent
from graphprune.utils.checks import did_you_mean
from graphprune.utils.modules import named_modules, named_tensors


def masked_copy(model: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """A copy in which entries are zero where ``torch.nn.utils.prune``, or one of the masks, masks them.

    Weights that are tied stay so where all of their masks are equal; else each is one of its own.

    Raises:
        InputError: a mask is no tensor, names no parameter, or has another shape.
    """
    copy = make_permanent(rewrite(model, {}, {}))
    tensors = dict(named_tensors(copy))
    with torch.no_grad():
        for name, mask in masks.items():
            tensor = _masked(tensors, name, mask)
            tensor.mul_((mask != 0).to(tensor))
    return copy


def _masked(tensors: Mapping[str, Tensor], name: str, mask: Tensor) -> Tensor:
    tensor = tensors.get(name)
    check_mask(name, mask)
    if tensor is None:
        raise InputError(
            f"masks: there is no parameter {name!r}{did_you_mean(name, tensors)}",
            found=f"the name {name!r}",
            needed=f"one of the {len(tensors)} names of parameters and buffers",
            do="name it as model.state_dict() does",
        )
    if tensor.shape != mask.shape:
        raise InputError(
            f"masks: the mask of {name} has shape {list(mask.shape)}, the parameter {list(tensor.shape)}",
            where=name,
            found=f"shape {list(mask.shape)}",
            needed=f"shape {list(tensor.shape)}",
            do="pass a mask with one entry for each of the parameter's",
        )
    return tensor


def entries_left(model: nn.Module, limits: Mapping[str, float]) -> dict[str, Tensor]:
    """By the name of a parameter or buffer, where it is not zero.

    Args:
        model: without masks.
        limits: up to which magnitude entries of a parameter count as zero; exact zeros where it is not named.
    """
    named = named_tensors(model)
    return {n: t.detach().abs() > limits[n] if n in limits else t.detach() != 0 for n, t in named}


def hidden_entries(model: nn.Module) -> dict[str, Tensor]:
    """By the name of an original parameter, where the weight that ``parametrize`` makes of it is zero."""
    found = {}
    for path, module in named_modules(model):
        if not parametrize.is_parametrized(module):
            continue
        prefix = f"{path}." if path else ""
        for name, parts in module.get_submodule("parametrizations").named_children():
            with torch.no_grad():
                made = getattr(module, name)
            for part, original in parts.named_parameters(recurse=False):
                if isinstance(made, Tensor) and original.shape == made.shape:
                    found[f"{prefix}parametrizations.{name}.{part}"] = made == 0
    return found
