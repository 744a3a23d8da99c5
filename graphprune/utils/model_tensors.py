"""Check that the tensors of a model are numbers in memory, of which some can be left out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx, nn

from graphprune.errors import InputError
from graphprune.utils.checks import with_article
from graphprune.utils.modules import Modules, check_once

_PLAIN = (Tensor, nn.Parameter)


def check_tensors(modules: Modules, name: str = "model") -> None:
    """Raise an InputError if a parameter or buffer is not an array of numbers, or torch.export made the model.

    Sparse buffers, such as the adjacency of a graph, are let pass: what meets them is frozen.

    Args:
        modules: a model's modules by path.
        name: the argument, for the message.
    """
    check_once(modules[0][1], "tensors", lambda: _check_all(modules, name))


def require_values(name: str, tensors: Iterable[tuple[str, Tensor]], purpose: str) -> None:
    """Raise an InputError if a tensor is on ``meta``.

    Args:
        name: the argument, for the message.
        tensors: of a model, by name.
        purpose: what values are needed for, such as ``"compare"``.
    """
    without = next((own for own, tensor in tensors if tensor.is_meta), None)
    if without is not None:
        raise InputError(
            f"{name}: {without} is on meta, and has no values to {purpose}",
            where=without,
            found="a tensor on meta, without values",
            needed="a model with weights",
            do="load the weights first",
        )


def _check_all(modules: Modules, name: str) -> None:
    for path, module in modules:
        prefix = f"{path}." if path else ""
        if _is_exported(module):
            raise InputError(
                f"{name}: is {with_article(type(module).__name__)} that torch.export made",
                where=path or name,
                found="a program whose sizes and mode torch.export has fixed",
                needed="a model whose forward is Python",
                do="prune the model that was exported, then export the slim one",
            )
        for own, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is not None and (type(tensor) not in _PLAIN or not _is_dense(tensor)):
                _check_tensor(tensor, f"{prefix}{own}", name, own in module._buffers)


def _is_dense(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_nested


def _check_tensor(tensor: Tensor, own: str, name: str, is_buffer: bool) -> None:
    """Raise an InputError if something unusual cannot be cut."""
    found = _unlike_arrays(tensor, is_buffer)
    if found is None:
        return
    what, do = found
    raise InputError(
        f"{name}.{own}: is {what}",
        where=own,
        found=f"{what}, of class {type(tensor).__module__}.{type(tensor).__qualname__}",
        needed="a dense tensor of numbers, from which entries can be left out",
        do=do,
    )


def _unlike_arrays(tensor: Tensor, is_buffer: bool) -> tuple[str, str] | None:
    """What a tensor is, if no array of numbers, and what to do."""
    kind: Any = type(tensor)
    if tensor.is_nested:
        return "a nested tensor", "keep one dense tensor for each of its parts"
    if tensor.is_quantized or kind.__module__.partition(".")[0] in ("torchao", "bitsandbytes"):
        return f"quantized ({kind.__name__})", "prune the model first, then quantize the slim one"
    if kind.__name__ == "FakeTensor":
        return "a FakeTensor", "build the model under torch.device('meta') instead of FakeTensorMode"
    if hasattr(kind, "__tensor_flatten__"):
        return (
            f"{with_article(kind.__name__)}, a tensor that is made of others",
            "put a plain tensor in its place, prune, and wrap the slim model's again",
        )
    if tensor.layout is not torch.strided and not is_buffer:
        return f"sparse ({tensor.layout})", "prune with p.to_dense() in its place, and make the slim one sparse"
    return None


def _is_exported(module: nn.Module) -> bool:
    """Is it what ``ExportedProgram.module()`` or ``torch.export.unflatten`` gives?"""
    if type(module).__module__ == "torch.export.unflatten":
        return True
    return isinstance(module, fx.GraphModule) and {"train", "eval"} <= vars(module).keys()
