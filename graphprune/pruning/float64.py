"""Run a program in float64, whatever floating-point types it names."""

from __future__ import annotations

import operator
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import _disable_current_modes

from graphprune.rules.registry import in_any_type
from graphprune.tracing.opaque import is_opaque
from graphprune.tracing.written_parameters import IN_PLACE
from graphprune.utils.deepcopy import copy_module
from graphprune.utils.float_types import is_float_type
from graphprune.utils.global_state import changing_globals, patched
from graphprune.utils.held import tensors_in_objects
from graphprune.utils.modules import all_tensors, copied_as, tables
from graphprune.utils.operators import Args, DispatchMode, FunctionMode, Kwargs
from graphprune.utils.random_state import random_numbers_kept
from graphprune.utils.switches import set_evaluation
from graphprune.utils.tree import map_tensors, replaced, tensors_of

WIDE = {torch.float16: torch.float64, torch.bfloat16: torch.float64, torch.float32: torch.float64}
WIDE |= {torch.complex32: torch.complex128, torch.complex64: torch.complex128}
WIDE |= {torch.float8_e4m3fn: torch.float64, torch.float8_e5m2: torch.float64}


# ---------------------------------------------------------------- float64


class Widen(DispatchMode):
    """Replace narrower floating-point types by float64 in all operations."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Args = (), kwargs: Kwargs | None = None) -> Any:
        return in_any_type(func)(*widen(args), **widen(kwargs or {}))


def widen(value: Any) -> Any:
    """Nested arguments with float64 in place of narrower types."""
    return replaced(lambda dtype: WIDE.get(dtype, dtype), value, torch.dtype)


def widened_tensor(tensor: Tensor) -> Tensor:
    """A copy of a tensor on the CPU, or on ``meta`` as it is, in double precision if it is floating-point."""
    tensor = tensor.detach().to("meta" if tensor.is_meta else "cpu", copy=True)
    return tensor.to(WIDE.get(tensor.dtype, tensor.dtype))


def wide_module(model: nn.Module) -> nn.Module:
    """A copy of a module in evaluation mode and float64, with what its containers, objects and functions hold."""
    own, modules = {id(t) for t in all_tensors(model)}, {id(module) for module in model.modules()}
    found = (t for _, owner in tables(model).holders for t in tensors_in_objects(vars(owner), modules))
    held = [t for t in found if id(t) not in own]
    wide = {id(tensor): copied_as(tensor, widened_tensor(tensor)) for tensor in (*all_tensors(model), *held)}
    return set_evaluation(copy_module(model, wide, everything=bool(held)))


def reads_default_type(graph: fx.Graph) -> bool:
    """Does a program make floating-point numbers of sizes and integers, in a type that it does not name?"""
    return any(map(_has_default_type, graph.nodes))


def _has_default_type(node: fx.Node) -> bool:
    """Is a tensor of unknown origin, the result of a call that cannot be looked into, or made of no floats?"""
    if node.op == "call_function" and is_opaque(node.target):
        return True
    if not _is_floating(node):
        return False
    if node.op != "call_function":
        return node.op == "get_attr" and "tensor" not in node.meta
    call = node.all_input_nodes[0] if node.target is operator.getitem else node
    return call.kwargs.get("dtype") is None and not any(map(_is_floating, call.all_input_nodes))


def _is_floating(node: fx.Node) -> bool:
    dtype = node.meta.get("dtype")
    return dtype is not None and is_float_type(dtype)


@contextmanager
def in_float64(as_default: bool = True) -> Iterator[None]:
    """Compute without gradients and fused attention; restore all of that at the end.

    Args:
        as_default: set the default type to float64, too. Other threads see that.
    """
    with changing_globals():
        default = torch.get_default_dtype()
        fastpath = torch.backends.mha.get_fastpath_enabled()
        if as_default:
            torch.set_default_dtype(torch.float64)
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with torch.no_grad(), random_numbers_kept():
                yield
        finally:
            torch.set_default_dtype(default)
            torch.backends.mha.set_fastpath_enabled(fastpath)


class WideArguments(FunctionMode):
    """What functions of torch are given in float64 in the place of what the program gives them.

    Numpy makes arrays of types that the program names; they become float64 where they meet it. ``rms_norm`` is given
    the ``eps`` of the narrow type: without one it takes that of the type of its input.
    """

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def __torch_function__(self, func: Any, types: Any, args: Args = (), kwargs: Kwargs | None = None) -> Any:
        kwargs = kwargs or {}
        if len({t.dtype in WIDE for t in tensors_of((args, kwargs)) if t.is_floating_point()}) > 1:
            first = args[:1] if IN_PLACE.search(getattr(func, "__name__", "")) else map_tensors(_wide, args[:1])
            args, kwargs = (*first, *map_tensors(_wide, args[1:])), map_tensors(_wide, kwargs)
        if func in (F.rms_norm, torch.rms_norm):
            given = dict(zip(("input", "normalized_shape", "weight", "eps"), args, strict=False)) | kwargs
            return func(**{**given, "eps": self.eps if given.get("eps") is None else given["eps"]})
        return func(*args, **kwargs)


def _wide(tensor: Tensor) -> Tensor:
    if tensor.dtype not in WIDE:
        return tensor
    with _disable_current_modes():  # this is no part of the program
        return tensor.to(WIDE[tensor.dtype])


@contextmanager
def narrow_finfo(model: nn.Module) -> Iterator[None]:
    """Let ``torch.finfo`` answer for the type that the model had before it became float64."""
    narrow = next((t.dtype for t in all_tensors(model) if t.dtype in WIDE), torch.float64)
    finfo, thread = torch.finfo, threading.get_ident()

    def of_narrow(kind: torch.dtype | None = None) -> torch.finfo:
        if threading.get_ident() != thread:
            return finfo() if kind is None else finfo(kind)
        return finfo(narrow if kind in (None, torch.float64) else kind)

    with changing_globals(), patched(torch, finfo=of_narrow), WideArguments(finfo(narrow).eps):
        yield
