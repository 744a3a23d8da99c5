"""Models on devices that cannot compute what scores and repair need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from graphprune.utils.deepcopy import copy_module
from graphprune.utils.modules import Tables, tables

WITHOUT_FLOAT64 = frozenset({"mps"})
"""Types of devices without float64, in which sums over batches and parameters are kept."""


def with_float64(model: nn.Module, own: Tables | None = None) -> nn.Module:
    """The model, or a copy of it on the CPU if a tensor of it is on a device without float64; ``own``: its tensors."""
    tensors = (tables(model) if own is None else own).everything()
    if WITHOUT_FLOAT64.isdisjoint([t.device.type for t in tensors.values()]):
        return model
    return copy_module(model, {key: _copy(t) for key, t in tensors.items()})


@contextmanager
def changing_with_float64(model: nn.Module) -> Iterator[nn.Module]:
    """The model, or a copy as :func:`with_float64` makes it, whose values the model has at the end if all went well."""
    copied = with_float64(model)
    yield copied
    if copied is not model:
        with torch.no_grad():
            for (_, tensor), (_, value) in zip(tables(model).unique(), tables(copied).unique(), strict=True):
                tensor.copy_(value)


def as_tensor(value: Tensor | float) -> Tensor:
    """A sum that is still the number that it began with as a tensor on the CPU, whatever the default device is."""
    return value if isinstance(value, Tensor) else torch.tensor(value, device="cpu")


def _copy(tensor: Tensor) -> Tensor:
    value = tensor.detach().to("cpu", copy=True)
    return nn.Parameter(value, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else value
