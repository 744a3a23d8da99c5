"""Parameters that are views of the same memory without being one parameter: ``b.weight.data = a.weight.data.t()``."""

from __future__ import annotations

import warnings
from collections import defaultdict

import torch
from torch import Tensor, nn

from graphprune.errors import SharedMemoryWarning
from graphprune.pruning.rewrite import Kept
from graphprune.utils.callers import frames_of_this_package
from graphprune.utils.modules import Tables


def warn_of_shared_memory(own: Tables, kept: Kept) -> None:
    """Warn of parameters that lose entries and have memory of their own from now on.

    Args:
        own: the tensors of the dense model.
        kept: the entries that survive.
    """
    for names in _sharing(own, kept):
        warnings.warn(
            f"{' and '.join(names)} are one memory in the dense model and are not in the slim one, where training "
            "changes them apart: copying a module separates what was tied by .data or detach. Give both the same "
            "nn.Parameter before pruning (b.weight = a.weight), or compute the one from the other in forward "
            "(F.linear(x, self.a.weight.t()))",
            SharedMemoryWarning,
            stacklevel=frames_of_this_package(),
        )


def _sharing(own: Tables, kept: Kept) -> list[list[str]]:
    """The names of tensors in the same memory, where a trained one is among them and one loses entries.

    Plain attributes do not count: hooks keep there what they have worked out.
    """
    found: defaultdict[tuple[int, int], list[tuple[str, Tensor]]] = defaultdict(list)
    for name, tensor in own.unique():  # without calls of Python's: every pruning comes by here
        if name not in own.plain and type(tensor) in _WITH_MEMORY and tensor.layout is torch.strided:
            found[tensor.data_ptr(), tensor.numel()].append((name, tensor))
    groups = (group for (memory, size), group in found.items() if memory and size > 1 and len(group) > 1)
    return [
        [name for name, _ in group]
        for group in groups
        if any(tensor.requires_grad for _, tensor in group) and any(name in kept for name, _ in group)
    ]


_WITH_MEMORY = frozenset((Tensor, nn.Parameter))
"""Types of which every tensor has a place of its own, or none (on ``meta``). Subclasses may keep it elsewhere."""
