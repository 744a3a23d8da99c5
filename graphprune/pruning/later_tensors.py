"""Tensors that a forward pass makes on its first call, such as a table of positions or a product of weights.

A plan that was made before knows nothing of them, and they are those of the dense model. Buffers that are not saved,
tensors in attributes that ``forward`` makes of weights and sizes, and cached properties are no state of the model: they
are as before the first call again, and the next one makes them.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from graphprune.pruning.fits import ShapesByName
from graphprune.pruning.rewrite import Kept
from graphprune.tracing.rebuilt_tensors import is_made_of_weights, is_rebuilt, is_set_when_built
from graphprune.utils.deepcopy import copy_module
from graphprune.utils.modules import Tables, all_tensors, tables


def known_shapes(own: Tables, kept: Kept, kinds: Mapping[str, type]) -> dict[str, tuple[int, ...]]:
    """The shapes that a plan is to know: of parameters and buffers, and of tensors in attributes that it cuts, or that
    forward makes and the model has already.

    Args:
        own: the tensors of the model.
        kept: the entries that the plan keeps of those that it cuts.
        kinds: the classes of the model's modules by their paths.
    """
    others = {name for name in own.plain.keys() - kept.keys() if not is_rebuilt(kinds, name)}
    return {name: tuple(t.shape) for name, t in own.unique() if name not in others}


def later_tensors(own: Tables, shapes: ShapesByName) -> list[tuple[nn.Module, str, bool]]:
    """The tensors that forward made since a plan, which does not know them: owner, name, and whether a new model has
    this name already, for None.

    Args:
        own: the tensors of the model.
        shapes: of the tensors that the plan knows.
    """
    known = {id(tensor) for name, tensor in own.unique() if name in shapes}
    named = (*own.buffers.items(), *own.plain.items())
    unknown = [name for name, tensor in named if id(tensor) not in known]
    modules = dict(own.modules) if unknown else {}
    kinds = {path: type(module) for path, module in modules.items()}
    found = []
    for name in unknown:
        path, _, attribute = name.rpartition(".")
        unsaved = attribute in modules[path]._non_persistent_buffers_set
        if unsaved or (name in own.plain and is_made_of_weights(kinds, name)):
            found.append((modules[path], attribute, is_set_when_built(kinds, name)))
    return found


def empty_later_tensors(model: nn.Module, shapes: ShapesByName) -> None:
    """Let the tensors that a plan does not know be as they were before the first call."""
    for module, name, is_set in later_tensors(tables(model), shapes):
        if not is_set:
            delattr(module, name)
        elif name in module._buffers:
            module._buffers[name] = None
        else:
            setattr(module, name, None)


def without_later_tensors(model: nn.Module, shapes: ShapesByName) -> nn.Module:
    """The model, or a copy that shares its tensors in which those that such a plan does not know are not made yet."""
    if not later_tensors(tables(model), shapes):
        return model
    copied = copy_module(model, {id(t): t for t in all_tensors(model)})
    empty_later_tensors(copied, shapes)
    return copied
