"""How much memory the tensors of one evaluation take at once."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from graphprune.measurement.stored_bytes import plain_tensors
from graphprune.tracing.run_state import evaluating_unchanged
from graphprune.utils.modules import all_tensors
from graphprune.utils.tree import tensors_of


def peak_activation_bytes(model: nn.Module, run: Callable[[], Any], inputs: Iterable[Tensor]) -> int:
    """The most bytes of tensors that are alive at once while ``run`` evaluates the model without gradients.

    Those of the model and the inputs do not count; what is returned does. On CUDA the allocator counts, scratch memory
    of kernels too, and its peak statistic starts anew; elsewhere the storages of all tensors between operations do,
    and an attention layer of torch.nn takes its ordinary path instead of the fused one, which hides them.
    """
    device = next((t.device for t in all_tensors(model)), torch.device("cpu"))
    with evaluating_unchanged(model), torch.no_grad():
        if device.type == "cuda":
            return _allocated(run, device)
        live = LiveStorages([*all_tensors(model), *inputs])
        with live:
            run()
    return live.peak


def _allocated(run: Callable[[], Any], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before: int = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    peak: int = torch.cuda.max_memory_allocated(device)
    return peak - before


class LiveStorages(TorchDispatchMode):
    """Follows the storages of what operations return, until nothing holds them any more.

    Args:
        known: tensors that do not count.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        self._known = {t.untyped_storage()._cdata for t in plain_tensors(known)}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in plain_tensors(tensors_of(result)):
            self._add(tensor.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        self._known.add(key)
        size = storage.nbytes()
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size
