"""A copy of the user's model that can be run without its weights and without changing it.

It is a deep copy in which every floating-point parameter and buffer lies on ``meta`` (nothing is read, nothing is
computed), integer buffers keep their values, and integer attributes are :class:`~graphprune.tracing.sizes.Size`
objects that carry their name. So are those of the plain objects that modules hold, such as a configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import nn

from graphprune.tracing.meta import META, is_float
from graphprune.tracing.size_marks import SizeMarker, holders_within
from graphprune.tracing.size_places import attributes_held
from graphprune.tracing.sizes import SizeLog
from graphprune.tracing.torch_attention import is_torchs_attention
from graphprune.tracing.uncopied import stand_in
from graphprune.utils.deepcopy import copy_with_tables
from graphprune.utils.modules import Modules, is_parameter, parameter_as, tables
from graphprune.utils.switches import switches_by_flags

TORCH_NN_SIZES = frozenset(
    "groups num_groups normalized_shape num_heads head_dim embed_dim num_features num_parameters "
    "input_size hidden_size proj_size d_model in_features out_features in_channels out_channels embedding_dim "
    "in1_features in2_features num_channels unflattened_size".split()
)
"""Integer attributes of torch.nn modules that are numbers of channels."""


@dataclass(frozen=True)
class MetaCopy:
    """A copy on ``meta`` and what it is a copy of.

    Attributes:
        module: the copy.
        modules: its submodules by path.
        tensors: its tensors by name, tied ones once, under their first name.
        paths: the paths of its submodules, by identity.
        originals: the user's tensors, by the identity of their copies.
        holders: those of its submodules that may hold functions, or dictionaries of their own, before it is run.
        kinds: the classes of the user's modules, by path.
        replaceable: the paths of those that are attention of torch, which pruning may put others in the place of.
        by_flags: is the mode alone to be set: see :func:`graphprune.utils.switches.switches_by_flags`.
    """

    module: nn.Module
    modules: Modules
    tensors: list[tuple[str, torch.Tensor]]
    paths: dict[int, str]
    originals: dict[int, torch.Tensor]
    holders: Modules
    kinds: Mapping[str, type] = field(default_factory=dict)
    replaceable: tuple[str, ...] = ()
    by_flags: bool = True


def make_meta_copy(model: nn.Module, log: SizeLog, on_meta: bool = True) -> MetaCopy:
    """Copy ``model``; with ``on_meta`` its floating-point tensors become shapes on ``meta``."""
    own = tables(model)
    by_flags = switches_by_flags(own.modules)
    tensors = own.everything()
    copies = {key: _copied_tensor(t, on_meta) for key, t in tensors.items()}
    module, copied = copy_with_tables(model, copies, stand_in, everything=True, own=own)
    marker = SizeMarker(log, _holders_in(own.modules))
    for path, submodule in copied.modules:
        prefix = f"{path}." if path else ""
        if is_torchs(type(submodule)):  # type: ignore[arg-type]  # classes hash by identity
            _mark_sizes(submodule, prefix, log)
        elif "[" not in path:
            marker.mark_attributes(submodule, prefix)
    paths = {id(submodule): path for path, submodule in copied.modules}
    originals = {id(copied): tensors[key] for key, copied in copies.items()}
    kinds = {path: type(submodule) for path, submodule in own.modules}
    attentions = [(path, submodule) for path, submodule in own.modules if isinstance(submodule, nn.MultiheadAttention)]
    replaceable = tuple(path for path, attention in attentions if is_torchs_attention(attention))
    return MetaCopy(
        module, copied.modules, copied.unique(), paths, originals, copied.holders, kinds, replaceable, by_flags
    )


def _holders_in(modules: Modules) -> set[int]:
    """The identities of the containers and objects that modules hold: some of them a copy may share."""
    found: set[int] = set()
    for _, module in modules:
        if not is_torchs(type(module)):  # type: ignore[arg-type]
            for value in attributes_held(module).values():
                found.update(id(holder) for holder in holders_within(value, found))
    return found


@lru_cache(maxsize=1024)
def is_torchs(kind: type[nn.Module]) -> bool:
    """Is a class of modules one of torch.nn?"""
    return kind.__module__.startswith("torch.nn")


def _copied_tensor(tensor: torch.Tensor, on_meta: bool) -> torch.Tensor:
    if on_meta and is_float(tensor):
        copied = torch.empty_like(tensor, device=META, requires_grad=False)
    else:
        copied = tensor.detach().clone()
    if type(tensor) is torch.Tensor or not is_parameter(tensor):
        return copied
    return parameter_as(tensor, copied)


def _mark_sizes(module: nn.Module, prefix: str, log: SizeLog) -> None:
    """Mark the sizes that a module of torch.nn keeps."""
    attributes = vars(module)
    marker = SizeMarker(log, set())
    for name in TORCH_NN_SIZES & attributes.keys():
        attributes[name] = marker.marked(attributes[name], prefix + name)
