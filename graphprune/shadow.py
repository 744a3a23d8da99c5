"""A stand-in for the user's model that can be run without its weights and without changing it.

The stand-in is a deep copy in which every floating-point parameter and buffer lives on ``meta`` (nothing is
read, nothing is computed), integer buffers keep their values, and integer attributes are
:class:`~graphprune.sizes.Size` objects that remember their name.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from graphprune.copying import copy_module
from graphprune.modules import all_tensors, named_modules, named_tensors
from graphprune.sizes import Attr, Size, SizeLog

TORCH_NN_SIZES = frozenset(
    "groups num_groups normalized_shape num_heads head_dim embed_dim num_features num_parameters".split()
)
"""Integer attributes by which torch.nn modules tell a function a number of channels."""


@dataclass(frozen=True)
class Shadow:
    """The stand-in ``module``, the names of its tensors (the first name where one is tied), and what they stand for."""

    module: nn.Module
    names: dict[int, str]
    paths: dict[int, str]
    originals: dict[int, torch.Tensor]


def make_shadow(model: nn.Module, log: SizeLog, abstract: bool = True) -> Shadow:
    """Copy ``model``; with ``abstract`` its floating-point tensors become shapes on ``meta``."""
    tensors = {id(t): t for t in all_tensors(model)}
    twins = {key: _stand_in(t, abstract) for key, t in tensors.items()}
    module = copy_module(model, twins)
    paths = {}
    for path, submodule in named_modules(module):
        paths[id(submodule)] = path
        _mark_sizes(submodule, f"{path}." if path else "", log)
    names = {id(t): name for name, t in named_tensors(module)}
    return Shadow(module, names, paths, {id(twin): tensors[key] for key, twin in twins.items()})


def _stand_in(tensor: torch.Tensor, abstract: bool) -> torch.Tensor:
    if abstract and (tensor.is_floating_point() or tensor.is_complex()):
        twin = torch.empty_like(tensor, device="meta", requires_grad=False)
    else:
        twin = tensor.detach().clone()
    return nn.Parameter(twin, requires_grad=False) if isinstance(tensor, nn.Parameter) else twin


def _mark_sizes(module: nn.Module, prefix: str, log: SizeLog) -> None:
    attributes = vars(module)
    own = not type(module).__module__.startswith("torch.nn")
    names = [n for n in attributes if own or n in TORCH_NN_SIZES]
    for name in names:
        value = attributes[name]
        if type(value) is int:
            attributes[name] = Size(value, Attr(prefix + name, value), log)
        elif type(value) in (tuple, list) and value and all(type(v) is int for v in value):
            attributes[name] = type(value)(Size(v, Attr(f"{prefix}{name}[{i}]", v), log) for i, v in enumerate(value))
