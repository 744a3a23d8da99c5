"""Devices that are named, and models on those that cannot compute what scores and repair need."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from graphprune.errors import InputError
from graphprune.utils.checks import found_value
from graphprune.utils.deepcopy import copy_module
from graphprune.utils.modules import Tables, copied_as, tables

WITHOUT_FLOAT64 = frozenset({"mps"})
"""Types of devices without float64, in which sums over batches and parameters are kept."""


def device_named(device: str | torch.device) -> torch.device:
    """The device that is meant, which need not be there.

    Raises:
        InputError: torch knows none of this name.
    """
    try:
        return torch.device(device)
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"device: {device!r} is none",
            found=f"{found_value(device)}\n{str(error).splitlines()[0]}",
            needed="a device that torch.device knows",
            do="pass device='cpu' or device='cuda'",
        ) from error


def device_with_values(device: str | torch.device) -> torch.device:
    """The device that is meant, on which this machine can make tensors that hold values.

    Raises:
        InputError: torch knows none of this name, it is ``meta``, or it is not there.
    """
    found = device_named(device)
    if found.type == "meta":
        raise InputError(
            "device: meta holds no values",
            found="the device meta",
            needed="a device with memory",
            do="pass the device on which the model is to run, such as device='cpu'",
        )
    try:
        torch.empty(0, device=found)
    except Exception as error:  # of any type: each kind of device has its own
        raise InputError(
            f"device: {found} is not there",
            found=f"{found_value(device)}\n{type(error).__name__}: {str(error).splitlines()[0]}",
            needed="a device that this machine has, and this version of torch can use",
            do="pass device='cpu'",
        ) from error
    return torch.device("cpu") if found.type == "cpu" else found  # there is one, and safetensors knows no cpu:0


def with_float64(model: nn.Module, own: Tables | None = None) -> nn.Module:
    """The model, or a copy of it on the CPU if a tensor of it is on a device without float64; ``own``: its tensors."""
    tensors = (tables(model) if own is None else own).everything()
    if WITHOUT_FLOAT64.isdisjoint([t.device.type for t in tensors.values()]):
        return model
    return copy_module(model, {key: copied_as(t, t.detach().to("cpu", copy=True)) for key, t in tensors.items()})


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
