"""A second device on any machine: its tensors are kept on the CPU, and operations across devices fail as on a GPU.

It takes the place of torch's ``privateuseone`` for the whole process, so tests run it in a process of their own.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from graphprune.reconstruction import linear_calls

_setup_privateuseone_for_python_backend("pretend")
DEVICE = torch.device("pretend:0")
FLOAT64 = True
"""False: as Apple's devices, which have none."""
_ACROSS = ("copy_", "_copy_from")
_INDEXED = ("index", "index_put", "index_put_", "_index_put_impl_")


class PretendTensor(Tensor):
    """A tensor on the pretend device; ``inner`` holds its values."""

    inner: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> PretendTensor:
        given = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        made: PretendTensor = Tensor._make_wrapper_subclass(cls, inner.shape, **given, device=DEVICE)
        made.inner = inner.detach()
        return made

    def tolist(self) -> Any:
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = dict(kwargs or {}), func.overloadpacket.__name__
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        pretend = [t for t in tensors if isinstance(t, PretendTensor)]
        if not FLOAT64 and any(t.dtype == torch.float64 for t in pretend):
            raise TypeError(f"{func}: this device has no float64")
        wrapped = _result_is_here(name, args, kwargs, tensors, func)
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        out = func(*tree_map(_inner, args), **tree_map(_inner, kwargs))
        known = {id(t.inner): t for t in pretend}

        def found(value: Any) -> Any:
            return known[id(value)] if id(value) in known else _wrapped(value) if isinstance(value, Tensor) else value

        return tree_map(found, out) if wrapped else out


def _result_is_here(name: str, args: Any, kwargs: Any, tensors: list[Tensor], func: Any) -> bool:
    """Whether the result is on the pretend device.

    Raises:
        RuntimeError: tensors are on several devices.
    """
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"]).type == DEVICE.type
    if name in _ACROSS or (name in _INDEXED and isinstance(args[0], PretendTensor)):
        return isinstance(args[0], PretendTensor)
    if name == "_local_scalar_dense":
        return False
    here = {isinstance(t, PretendTensor) for t in tensors if t.ndim or isinstance(t, PretendTensor)}
    if len(here) > 1:
        raise RuntimeError(f"{func}: tensors are on several devices")
    return True


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, PretendTensor) else value


def _wrapped(value: Tensor) -> Tensor:
    return value if isinstance(value, PretendTensor) else PretendTensor(value)


class _Factories(TorchDispatchMode):
    """Makes tensors on the pretend device from those on the CPU."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        device = kwargs.get("device")
        there = device is not None and torch.device(device).type == DEVICE.type
        if there and not any(isinstance(t, PretendTensor) for t in tree_leaves((args, kwargs))):
            return PretendTensor(func(*args, **{**kwargs, "device": torch.device("cpu")}))
        return func(*args, **kwargs)


def _empty(size: Any, dtype: Any = None, *_: Any, **__: Any) -> Tensor:
    return PretendTensor(torch.empty(size, dtype=dtype, device="cpu"))


def _empty_strided(size: Any, stride: Any, dtype: Any = None, *_: Any, **__: Any) -> Tensor:
    return PretendTensor(torch.empty_strided(size, stride, dtype=dtype, device="cpu"))


def _copy_from(source: Tensor, to: Tensor, non_blocking: bool = False) -> Tensor:
    _inner(to).copy_(_inner(source))
    return to


def _address(tensor: Tensor) -> int:
    return int(_inner(tensor).untyped_storage().data_ptr())


_LIBRARY = torch.library.Library("aten", "IMPL")


def begin() -> None:
    """Make the device known, in this thread and in those that it starts."""
    _LIBRARY.impl("empty.memory_format", _empty, "PrivateUse1")
    _LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
    _LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")
    _Factories().__enter__()
    own = linear_calls.address
    for module in list(sys.modules.values()):  # tensors of wrappers have no memory of their own
        if getattr(module, "__name__", "").startswith("graphprune") and getattr(module, "address", None) is own:
            module.address = _address  # type: ignore[attr-defined]


def moved(module: nn.Module) -> nn.Module:
    """A module whose tensors are put on the pretend device."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(PretendTensor(parameter.detach().clone()))
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = PretendTensor(buffer.detach().clone())
    return module


def without_float64() -> None:
    """From now on the device has no float64."""
    global FLOAT64
    FLOAT64 = False
