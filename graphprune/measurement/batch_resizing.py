"""The same example inputs with another batch size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from graphprune.errors import InputError
from graphprune.tracing.inputs import MethodCall
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
        raise InputError(f"batch_sizes: no input has a dimension {dim} of size 1 or more; leave batch_sizes out")

    def resize(tensor: Tensor) -> Tensor:
        if tensor.ndim <= dim or tensor.shape[dim] != now:
            return tensor
        return tensor.index_select(dim, torch.arange(size, device=tensor.device) % now)

    return [call.mapped(resize) for call in calls]


def check_batch_first(model: nn.Module) -> None:
    """Raise an InputError if a module may have its batch in dimension 1, so that dimension 0 is a guess."""
    for path, module in named_modules(model):
        if getattr(module, "batch_first", True) is False:
            raise InputError(
                f"batch_dim: {path or 'the model'} is a {type(module).__name__} with batch_first=False, so the batch "
                "may not be dimension 0 of the inputs; say which it is, batch_dim=0 or batch_dim=1"
            )
