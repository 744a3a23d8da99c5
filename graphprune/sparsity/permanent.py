"""Masks made permanent: plain parameters with zeros in place of the parametrization of ``torch.nn.utils.prune``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from graphprune.sparsity.attention import release_attention
from graphprune.utils.global_state import leaves_torch_alone
from graphprune.utils.model_checks import check_model
from graphprune.utils.modules import named_modules, parameter_as
from graphprune.utils.prune_masks import ORIGINAL, parameters_in_order, prune_masks


@leaves_torch_alone
def make_permanent(model: nn.Module) -> nn.Module:
    """Turn the masks of a model into zeros of plain parameters, in place, by ``prune.remove`` everywhere.

    Names in the state dict are those of the dense model again (``weight`` for ``weight_orig`` and ``weight_mask``).
    Further training changes the zeros. Zeros have no sign afterwards, so that they need no space in files. Weights that
    are tied stay so where all of their masks are equal; else each is one of its own.

    Args:
        model: masked by :func:`graphprune.sparsify`, by torch's own functions, or not at all.

    Returns:
        The model itself.
    """
    check_model(model)
    _untie(model)
    for _, module in named_modules(model):
        names = [name for name, _ in prune_masks(module)] if prune.is_pruned(module) else []
        for name in names:
            _remove(module, name)
        release_attention(module)
    return model


def _remove(module: nn.Module, name: str) -> None:
    if not _has_hook(module, name):
        return
    with parameters_in_order(module, {name + ORIGINAL: name}):
        prune.remove(module, name)
    with torch.no_grad():
        getattr(module, name).add_(0.0)  # a masked negative weight is -0.0


def _has_hook(module: nn.Module, name: str) -> bool:
    hooks = module._forward_pre_hooks.values()
    return any(isinstance(hook, prune.BasePruningMethod) and hook._tensor_name == name for hook in hooks)


def _untie(model: nn.Module) -> None:
    """Give every module its own copy of a parameter that others have without a mask, or with another one."""
    owners: dict[int, list[tuple[nn.Module, str, Tensor | None]]] = {}
    for _, module in named_modules(model):
        masks = {f"{name}{ORIGINAL}": mask for name, mask in prune_masks(module)}
        for name, parameter in module._parameters.items():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append((module, name, masks.get(name)))
    for tied in owners.values():
        first = tied[0][2]
        if all(mask is None for *_, mask in tied) or all(_same(first, mask) for *_, mask in tied):
            continue
        for module, name, mask in tied:
            old = module._parameters[name]
            if mask is not None and old is not None:
                module._parameters[name] = parameter_as(old, old.detach().clone())


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)
