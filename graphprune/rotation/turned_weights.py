"""Turn what writes and reads a stream, and fold factors of channels into what reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from graphprune.rotation.streams import Stream
from graphprune.utils.deepcopy import copy_module
from graphprune.utils.modules import all_tensors, copied_as, named_tensors

Turns = Sequence[tuple[Stream, Tensor]]
"""Streams, each with the orthogonal matrix that its channels are multiplied with. [width, width]"""


def fold_gains(model: nn.Module, streams: Sequence[Stream]) -> nn.Module:
    """A copy in which the factors of channels are ones, and what reads their results has them."""
    own = dict(named_tensors(model))
    new: dict[str, Tensor] = {}
    for stream in streams:
        for (name, dim), gains in stream.roles.items():
            for gain in gains:
                factor = _value(stream.gains[gain], own, {}).to(own[name].dtype)
                weight = new.get(name, own[name].detach())
                new[name] = (weight.movedim(dim, -1) * factor).movedim(-1, dim)
        for name, node in stream.gains.items():
            new[name] = torch.full_like(own[name].detach(), _neutral(node, name, own))
    return with_tensors(model, new)


def turn(model: nn.Module, turns: Turns) -> nn.Module:
    """A copy in which the channels of streams are others, each a combination of all."""
    own = dict(named_tensors(model))
    new: dict[str, Tensor] = {}
    for stream, basis in turns:
        for name, dim in stream.roles:
            weight = new.get(name, own[name].detach())
            turned = weight.movedim(dim, -1) @ basis.to(weight.device, weight.dtype)
            new[name] = turned.movedim(-1, dim).contiguous()
    return with_tensors(model, new)


def with_tensors(model: nn.Module, new: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a model with other values of some tensors, in their types; the others are its own copies."""
    tensors: dict[int, Tensor] = {}
    names = {id(tensor): name for name, tensor in named_tensors(model)}
    for tensor in all_tensors(model):
        name = names.get(id(tensor), "")
        value = new[name].to(tensor) if name in new else tensor.detach().clone()
        tensors[id(tensor)] = copied_as(tensor, value)
    return copy_module(model, tensors)


def _neutral(gain: fx.Node, name: str, own: Mapping[str, Tensor]) -> float:
    """The value of a parameter for which a factor that is worked out from it is one: 1, or 0 of ``1 + weight``."""
    at = [_value(gain, own, {name: torch.full_like(own[name].detach(), value)}).flatten()[0] for value in (0.0, 1.0)]
    return float((1 - at[0]) / (at[1] - at[0]))


def _value(node: Any, own: Mapping[str, Tensor], instead: Mapping[str, Tensor]) -> Any:
    """What a program computes from parameters alone, with some values instead of theirs."""
    if isinstance(node, list | tuple):
        return type(node)(_value(one, own, instead) for one in node)
    if not isinstance(node, fx.Node):
        return node
    if node.op == "get_attr":
        name = str(node.meta["tensor"])
        return instead.get(name, own[name].detach())
    kwargs = {key: value for key, value in node.kwargs.items() if key not in ("device", "dtype")}
    return node.target(*(_value(one, own, instead) for one in node.args), **kwargs)  # type: ignore[operator]
