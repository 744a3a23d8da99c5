"""Buffers that a forward pass fills on its first call, such as a table of positions or an ALiBi bias.

A plan that was made before knows nothing of them, and they have the dense sizes. Those that are not saved are no state
of the model: they are as before the first call again, and the next one fills them.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from graphprune.tracing.rebuilt_tensors import is_set_when_built
from graphprune.utils.deepcopy import copy_module
from graphprune.utils.modules import all_tensors, first_names, tables


def later_buffers(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> list[tuple[nn.Module, str, bool]]:
    """The buffers that are not saved and that a plan for tensors of these ``shapes`` does not know: owner, name, and
    whether a new model has this name already, for None."""
    own = tables(model)
    first = first_names(own)
    unknown = [name for name in own.buffers if first[name] not in shapes]
    modules = dict(own.modules) if unknown else {}
    kinds = {path: type(module) for path, module in modules.items()}
    found = []
    for name in unknown:
        path, _, attribute = name.rpartition(".")
        if attribute in modules[path]._non_persistent_buffers_set:
            found.append((modules[path], attribute, is_set_when_built(kinds, name)))
    return found


def empty_later_buffers(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Let the buffers that a plan does not know be as they were before the first call."""
    for module, name, is_set in later_buffers(model, shapes):
        if is_set:
            module._buffers[name] = None
        else:
            delattr(module, name)


def without_later_buffers(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """The model, or a copy that shares its tensors in which buffers that such a plan does not know are empty."""
    if not later_buffers(model, shapes):
        return model
    copied = copy_module(model, {id(t): t for t in all_tensors(model)})
    empty_later_buffers(copied, shapes)
    return copied
