"""Masks that ``torch.nn.utils.prune`` registered on a module: ``weight_orig`` times the buffer ``weight_mask``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from graphprune.utils.modules import named_modules

ORIGINAL, MASK = "_orig", "_mask"


def prune_masks(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The masks of a module's own tensors, by the plain name of each (``"weight"``)."""
    for name, mask in module._buffers.items():
        plain = name.removesuffix(MASK)
        if plain != name and mask is not None and module._parameters.get(f"{plain}{ORIGINAL}") is not None:
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


def without_masks(state: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """A state dict in which masks are multiplied in: ``weight`` for ``weight_orig`` and ``weight_mask``.

    Args:
        state: tensors by name.
        names: those of the model that it is for; if that has masks itself, the state dict stays as it is.
    """
    pairs = {n.removesuffix(ORIGINAL): n for n in state if n.endswith(ORIGINAL)}
    masked = {n: original for n, original in pairs.items() if f"{n}{MASK}" in state and n not in state}
    if any(name.endswith(ORIGINAL) for name in names):
        return dict(state)
    gone = {name for n, original in masked.items() for name in (original, f"{n}{MASK}")}
    found = {name: tensor for name, tensor in state.items() if name not in gone}
    return found | {n: state[original] * state[f"{n}{MASK}"] for n, original in masked.items()}
