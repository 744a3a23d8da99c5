"""Buffers that a forward pass fills on its first call, such as a table of positions or an ALiBi bias.

A plan that was made before knows nothing of them, and they have the dense sizes. They are no state of the model (they
are not saved with it), so they are emptied, and the next call fills them again.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from graphprune.utils.deepcopy import copy_module
from graphprune.utils.modules import all_tensors, named_modules, named_tensors


def later_buffers(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[nn.Module, str]]:
    """The buffers that are not saved and that a plan for tensors of these ``shapes`` does not know: owner and name."""
    unsaved = [(module, name) for _, module in named_modules(model) for name in module._non_persistent_buffers_set]
    if not unsaved:
        return []
    unknown = {id(tensor) for name, tensor in named_tensors(model) if name not in shapes}
    return [(module, name) for module, name in unsaved if id(module._buffers[name]) in unknown]


def empty_later_buffers(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Set the buffers that a plan does not know to None, as they were before the first call."""
    for module, name in later_buffers(model, shapes):
        module._buffers[name] = None


def without_later_buffers(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """The model, or a copy that shares its tensors in which buffers that such a plan does not know are empty."""
    if not later_buffers(model, shapes):
        return model
    copied = copy_module(model, {id(t): t for t in all_tensors(model)})
    empty_later_buffers(copied, shapes)
    return copied
