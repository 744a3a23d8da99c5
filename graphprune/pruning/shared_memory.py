"""Parameters that are views of the same memory without being one parameter: ``b.weight.data = a.weight.data.t()``."""

from __future__ import annotations

import warnings
from collections import defaultdict

from torch import Tensor

from graphprune.errors import SharedMemoryWarning
from graphprune.pruning.rewrite import Kept
from graphprune.tracing.meta import is_float
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
    """The names of tensors in the same memory, where a trained one is among them and one loses entries."""
    found: defaultdict[tuple[int, int], list[tuple[str, Tensor]]] = defaultdict(list)
    for name, tensor in own.unique():
        if is_float(tensor) and not tensor.is_meta and tensor.numel() > 1:
            found[_memory(tensor), tensor.numel()].append((name, tensor))
    groups = (group for (memory, _), group in found.items() if memory and len(group) > 1)
    return [
        [name for name, _ in group]
        for group in groups
        if any(tensor.requires_grad for _, tensor in group) and any(name in kept for name, _ in group)
    ]


def _memory(tensor: Tensor) -> int:
    """Where a tensor's entries are; 0 for those without a place of their own: sparse, quantized by a subclass."""
    try:
        return tensor.data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0
