"""What is left of each tensor of a checkpoint, made when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.pruning.plan import Plan
from graphprune.pruning.rewrite import slim_tensor
from graphprune.utils.modules import named_modules, parameter_as, tables


def storage_address(tensor: Tensor) -> int:
    """What a tensor has in common with its aliases, such as those in a state dict."""
    return tensor.untyped_storage().data_ptr()


PART = 1 << 23
"""Bytes of a tensor that are cut at a time. Much larger ones would be new memory each time, which is slow to get."""


class Slices:
    """The parameters of a slim model that is on ``meta``, by what the plan keeps of the dense tensors.

    The model is given placeholders, which have shapes and almost no memory, and can be run.

    Attributes:
        slim: the slim model; its parameters on ``meta`` are replaced.
        plan: what made it of the dense model.
        tensors: of the dense model, by name.
    """

    def __init__(self, slim: nn.Module, plan: Plan, tensors: Mapping[str, Tensor]) -> None:
        self.slim = slim
        self.plan = plan
        self.tensors = tensors
        own = {n: t for n, t in tables(slim).unique() if isinstance(t, nn.Parameter) and t.is_meta}
        self._held = {name: torch.zeros((), dtype=t.dtype, device="cpu") for name, t in own.items()}
        self._names = {storage_address(one): name for name, one in self._held.items()}
        new = {id(t): parameter_as(t, self._held[name].expand(t.shape)) for name, t in own.items()}
        replace_parameters(slim, lambda old: new.get(id(old), old))

    def values(self, tensor: Tensor) -> Iterator[Tensor]:
        """The entries that a placeholder stands for, in parts that follow each other; any other tensor as it is."""
        name = self._names.get(storage_address(tensor))
        if name is None:
            yield tensor
            return
        dense, kept = self.tensors[name], dict(self.plan.kept.get(name, {}))
        if dense.ndim == 0:
            yield dense.to(tensor.dtype)
            return
        rows = kept.pop(0, None)
        count = max(1, PART // max(dense[:1].nbytes, 1))
        for start in range(0, dense.shape[0] if rows is None else len(rows), count):
            part = slice(start, start + count)
            few = dense[part] if rows is None else slim_tensor(dense, {0: rows[part]})
            yield (slim_tensor(few, kept) if kept else few).to(tensor.dtype)


def replace_parameters(model: nn.Module, new: Any) -> None:
    """Give a model other parameters in the places of its own, by a function."""
    for _, module in named_modules(model):
        for name, old in module._parameters.items():
            if old is not None:
                module._parameters[name] = new(old)


def parameters_by_address(model: nn.Module) -> dict[int, nn.Parameter]:
    """All parameters of a model, tied ones once."""
    return {storage_address(parameter): parameter for parameter in model.parameters()}


def map_parameters(model: nn.Module, tensors: Mapping[int, Tensor]) -> None:
    """Put tensors in the places of the parameters at these addresses; tied ones stay tied."""
    made: dict[int, nn.Parameter] = {}

    def new(old: nn.Parameter) -> nn.Parameter:
        place = storage_address(old)
        return made.setdefault(place, parameter_as(old, tensors[place])) if place in tensors else old

    replace_parameters(model, new)
