"""The values that tensors had before operations wrote to them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from graphprune.utils.operators import Args, DispatchMode, Kwargs, is_mutable, written_arguments
from graphprune.utils.storages import shares_all, storage_of


class KeptValues(DispatchMode):
    """While it is on, the values of tensors are copied before an operation writes to them, and only then.

    Args:
        tensors: none of them on ``meta``.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self._known = {id(tensor): (tensor, tensor.detach()) for tensor in tensors}  # other data may be set
        self._written: dict[int, Tensor] = {}
        self._of_storage: dict[int, list[Tensor]] = {}
        for tensor, _ in self._known.values():
            if storage := storage_of(tensor):
                self._of_storage.setdefault(storage, []).append(tensor)
            else:
                self._written[id(tensor)] = tensor.detach().clone()

    def __torch_dispatch__(self, func: Any, types: Any, args: Args = (), kwargs: Kwargs | None = None) -> Any:
        kwargs = kwargs or {}
        if is_mutable(func):
            for one in written_arguments(func, args, kwargs):
                if isinstance(one, Tensor):
                    self._keep(storage_of(one))
        return func(*args, **kwargs)

    def _keep(self, storage: int) -> None:
        for tensor in self._of_storage.pop(storage, ()):
            self._written[id(tensor)] = self._known[id(tensor)][1].clone()

    def same(self, tensor: Tensor, now: Tensor | None, rounding: float) -> bool:
        """Has what stands in a tensor's place its values still, up to a fraction of the largest?"""
        before, values = self._known[id(tensor)][1], self._written.get(id(tensor))
        if now is None:
            return False
        if values is None and shares_all(before, now):
            return True
        return _equal(now, before if values is None else values, rounding)

    @torch.no_grad()
    def put_back(self, tensor: Tensor) -> None:
        """Let a tensor have its memory, and the values there, again."""
        before, values = self._known[id(tensor)][1], self._written.get(id(tensor))
        if storage_of(before) and not shares_all(before, tensor):
            tensor.data = before
        if values is not None and not torch.equal(before, values):
            before.copy_(values)


def _equal(tensor: Tensor, values: Tensor, rounding: float) -> bool:
    """Are values the same, up to a fraction of the largest?"""
    if tensor.shape != values.shape or not rounding or not values.numel():
        return torch.equal(tensor, values)
    return bool((tensor.detach() - values).abs().max() <= rounding * values.abs().max())
