"""A copy of the user's model that can be run without its weights and without changing it.

It is a deep copy in which every floating-point parameter and buffer lies on ``meta`` (nothing is read, nothing is
computed), integer buffers keep their values, and integer attributes are :class:`~graphprune.tracing.sizes.Size`
objects that carry their name. So are those of the plain objects that modules hold, such as a configuration.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from graphprune.tracing.sizes import Attr, Size, SizeLog
from graphprune.tracing.uncopied import stand_in
from graphprune.utils.deepcopy import copy_module
from graphprune.utils.modules import all_tensors, named_modules, named_tensors

TORCH_NN_SIZES = frozenset(
    "groups num_groups normalized_shape num_heads head_dim embed_dim num_features num_parameters "
    "input_size hidden_size proj_size d_model in_features out_features in_channels out_channels embedding_dim "
    "in1_features in2_features num_channels".split()
)
"""Integer attributes of torch.nn modules that are numbers of channels."""


@dataclass(frozen=True)
class MetaCopy:
    """A copy on ``meta`` and what it is a copy of.

    Attributes:
        module: the copy.
        tensors: its tensors by name, tied ones once, under their first name.
        paths: the paths of its submodules, by identity.
        originals: the user's tensors, by the identity of their copies.
    """

    module: nn.Module
    tensors: list[tuple[str, torch.Tensor]]
    paths: dict[int, str]
    originals: dict[int, torch.Tensor]


def make_meta_copy(model: nn.Module, log: SizeLog, on_meta: bool = True) -> MetaCopy:
    """Copy ``model``; with ``on_meta`` its floating-point tensors become shapes on ``meta``."""
    tensors = {id(t): t for t in all_tensors(model)}
    copies = {key: _copied_tensor(t, on_meta) for key, t in tensors.items()}
    module = copy_module(model, copies, stand_in, everything=True)
    modules = named_modules(module)
    for path, submodule in modules:
        _mark_sizes(submodule, f"{path}." if path else "", log)
    theirs = {id(value) for _, m in named_modules(model) if not is_torchs(m) for value in vars(m).values()}
    for path, submodule in modules:
        if not is_torchs(submodule):
            _mark_objects(submodule, f"{path}." if path else "", log, theirs)
    paths = {id(submodule): path for path, submodule in modules}
    originals = {id(copied): tensors[key] for key, copied in copies.items()}
    return MetaCopy(module, named_tensors(module), paths, originals)


def is_torchs(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn")


def _copied_tensor(tensor: torch.Tensor, on_meta: bool) -> torch.Tensor:
    if on_meta and (tensor.is_floating_point() or tensor.is_complex()):
        copied = torch.empty_like(tensor, device="meta", requires_grad=False)
    else:
        copied = tensor.detach().clone()
    return nn.Parameter(copied, requires_grad=False) if isinstance(tensor, nn.Parameter) else copied


def _mark_sizes(module: nn.Module, prefix: str, log: SizeLog) -> None:
    attributes = vars(module)
    names = TORCH_NN_SIZES & attributes.keys() if is_torchs(module) else list(attributes)
    for name in names:
        attributes[name] = _marked(attributes[name], prefix + name, log)


def _marked(value: Any, path: str, log: SizeLog) -> Any:
    """An integer, or a tuple or list of integers, as sizes; anything else as it is."""
    if type(value) is int:
        return Size(value, Attr(path, value), log)
    if type(value) in (tuple, list) and value and all(type(v) is int for v in value):
        return type(value)(Size(v, Attr(f"{path}[{i}]", v), log) for i, v in enumerate(value))
    return value


def _mark_objects(holder: Any, prefix: str, log: SizeLog, known: set[int]) -> None:
    """Mark the integers of plain objects that ``holder`` holds: one that several hold goes by its first name.

    ``known`` are objects that are marked already, or that the copy shares with the user's model.
    """
    for name, value in list(vars(holder).items()):
        if is_plain_object(value) and id(value) not in known:
            known.add(id(value))
            attributes = vars(value)
            for inner in [n for n in attributes if n.isidentifier()]:
                attributes[inner] = _marked(attributes[inner], f"{prefix}{name}.{inner}", log)
            _mark_objects(value, f"{prefix}{name}.", log, known)


def is_plain_object(value: Any) -> bool:
    """An instance of a user's class that keeps its attributes in a dictionary, such as a configuration."""
    if isinstance(value, nn.Module | torch.Tensor | type) or callable(value) or not hasattr(value, "__dict__"):
        return False
    return type(value).__module__.partition(".")[0] not in ("torch", "builtins", "collections")
