"""Masks that ``torch.nn.utils.prune`` registered on a module: ``weight_orig`` times the buffer ``weight_mask``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor, nn

ORIGINAL, MASK = "_orig", "_mask"


def prune_masks(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The masks of a module's own tensors, by the plain name of each (``"weight"``)."""
    for name, mask in module.named_buffers(recurse=False):
        plain = name.removesuffix(MASK)
        if plain != name and f"{plain}{ORIGINAL}" in dict(module.named_parameters(recurse=False)):
            yield plain, mask


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
