"""Masks that ``torch.nn.utils.prune`` registered on a module: ``weight_orig`` times the buffer ``weight_mask``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from graphprune.utils.modules import named_modules

ORIGINAL, MASK = "_orig", "_mask"


def prune_masks(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The masks of a module's own tensors, by the plain name of each (``"weight"``)."""
    for name, mask in module.named_buffers(recurse=False):
        plain = name.removesuffix(MASK)
        if plain != name and f"{plain}{ORIGINAL}" in dict(module.named_parameters(recurse=False)):
            yield plain, mask


@contextmanager
def parameters_in_order(module: nn.Module, renamed: Mapping[str, str]) -> Iterator[None]:
    """Parameters that are renamed within stand where they stood, so that a saved optimizer finds them by number."""
    names = [renamed.get(name, name) for name in module._parameters]
    yield
    for name in names:
        module._parameters[name] = module._parameters.pop(name)


def apply_masks(model: nn.Module) -> None:
    """Set every masked weight to what its hook makes of it before a call, but without a gradient.

    It is up to date then whatever changed, and the model can be copied by ``copy.deepcopy``, which refuses tensors that
    a call has left with their gradients.
    """
    with torch.no_grad():
        for _, module in named_modules(model):
            for name, mask in prune_masks(module):
                original = getattr(module, f"{name}{ORIGINAL}")
                setattr(module, name, mask.to(original.dtype) * original)
