"""The values that tensors had before operations wrote to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Self

from graphprune.utils.equality import same_entries, same_values
from graphprune.utils.operators import Args, DispatchMode, FunctionMode, Kwargs, is_mutable, written_arguments
from graphprune.utils.storages import shares_all, storage_of


class _HandingOut(FunctionMode):
    """Says whose memory is handed to what writes there without an operation of torch, as numpy does."""

    def __init__(self, keep: Callable[[int], None]) -> None:
        super().__init__()
        self._keep = keep

    def __torch_function__(self, func: Any, types: Any, args: Args = (), kwargs: Kwargs | None = None) -> Any:
        if func in _HAND_OUT:
            self._keep(storage_of(args[0]))
        return func(*args, **(kwargs or {}))


_HAND_OUT = frozenset((Tensor.numpy, Tensor.__array__, Tensor.data_ptr, Tensor.__dlpack__))


class KeptValues(DispatchMode):
    """While it is on, the values of tensors are copied before something may write to them, and only then.

    Args:
        tensors: none of them on ``meta``.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self._known = {id(tensor): (tensor, tensor.detach()) for tensor in tensors}  # other data may be set
        self._written: dict[int, Tensor] = {}
        self._of_storage: dict[int, list[Tensor]] = {}
        self._handing_out = _HandingOut(self._keep)
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

    def __enter__(self) -> Self:
        self._handing_out.__enter__()  # type: ignore[no-untyped-call]
        return super().__enter__()

    def __exit__(self, *failure: Any) -> None:
        super().__exit__(*failure)
        self._handing_out.__exit__(*failure)

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
        if values is not None and not same_values(before, values):
            before.copy_(values)


def _equal(tensor: Tensor, values: Tensor, rounding: float) -> bool:
    """Are values the same, up to a fraction of the largest?"""
    if tensor.shape != values.shape or not rounding or not values.numel():
        return same_values(tensor, values)
    apart = (tensor.detach() - values).abs().masked_fill(same_entries(tensor, values), 0)
    return bool(apart.max() <= rounding * values.abs().nan_to_num(0, 0, 0).max())
