"""The same example inputs with another batch size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from graphprune.errors import InputError
from graphprune.tracing.inputs import MethodCall
from graphprune.utils.checks import with_article
from graphprune.utils.modules import named_modules


def batch_size(calls: Sequence[MethodCall], dim: int) -> int | None:
    """The size of a dimension of the first input tensor that has it; None: there is none."""
    tensors = [tensor for call in calls for tensor in call.tensors if tensor.ndim > dim]
    return int(tensors[0].shape[dim]) if tensors and tensors[0].shape[dim] else None


def with_batch_size(calls: Sequence[MethodCall], dim: int, size: int) -> list[MethodCall]:
    """What there is, repeated and cut: of all tensors that have the batch size of the first in this dimension.

    Raises:
        InputError: no input has a batch size.
    """
    now = batch_size(calls, dim)
    if now is None:
        raise InputError(
            f"batch_sizes: no input has a dimension {dim} of size 1 or more",
            found=", ".join(str(list(tensor.shape)) for call in calls for tensor in call.tensors) or "no tensor",
            needed=f"an input with a dimension {dim}",
            do="leave batch_sizes out, or pass batch_dim=",
        )

    def resize(tensor: Tensor) -> Tensor:
        if tensor.ndim <= dim or tensor.shape[dim] != now:
            return tensor
        return tensor.index_select(dim, torch.arange(size, device=tensor.device) % now)

    return [call.mapped(resize, objects=True) for call in calls]


def batch_dim_of(models: Mapping[str, nn.Module], given: int | None, resizing: bool) -> int | None:
    """Which dimension of the inputs is the batch: the first, unless a module may have it in the second.

    Args:
        given: what the user says; None: nothing.
        resizing: the user asks for other batch sizes, so that it must be known.

    Returns:
        The dimension; None: it is not known.

    Raises:
        InputError: it must be known and is not.
    """
    modules = [named for model in models.values() for named in named_modules(model)]
    unclear = [(path, module) for path, module in modules if getattr(module, "batch_first", True) is False]
    if given is not None or not unclear:
        return given or 0
    if resizing:
        path, module = unclear[0]
        raise InputError(
            f"batch_dim: {path or 'the model'} is {with_article(type(module).__name__)} with batch_first=False, so "
            "the batch may "
            "not be dimension 0 of the inputs",
            where=path or type(module).__name__,
            found=f"{with_article(type(module).__name__)} with batch_first=False",
            needed="the dimension of the inputs that is the batch",
            do="say which it is, batch_dim=0 or batch_dim=1",
        )
    return None
