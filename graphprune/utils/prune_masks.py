"""Masks that ``torch.nn.utils.prune`` registered on a module: ``weight_orig`` times the buffer ``weight_mask``."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

ORIGINAL, MASK = "_orig", "_mask"


def prune_masks(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The masks of a module's own tensors, by the plain name of each (``"weight"``)."""
    for name, mask in module._buffers.items():
        plain = name.removesuffix(MASK)
        if plain != name and mask is not None and module._parameters.get(f"{plain}{ORIGINAL}") is not None:
            yield plain, mask
