"""Run two models on the same calibration batches, as often as repair needs."""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.calibration.batches import call_arguments, call_model, moved_to


class StopForward(BaseException):
    """What a pass was made for has been seen: ends the run. Not an error, so that no model catches it."""


def run_batch(model: nn.Module, number: int, batch: Any, watch: AbstractContextManager[Any]) -> None:
    """Call a model with a batch while ``watch`` is active, until that has seen enough.

    Raises:
        InputError: the model failed, or the batch is not what one can be called with.
    """
    args, kwargs = moved_to(model, call_arguments(number, batch))
    with suppress(StopForward), watch:
        call_model(model, number, args, kwargs, "pass batches of inputs alone, without targets")


class Rollback:
    """Puts back the values of tensors that were noted, if what is done meanwhile fails."""

    def __init__(self) -> None:
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def note(self, tensor: Tensor) -> None:
        """Remember a tensor's values: it is about to be written to."""
        if id(tensor) not in self._before:
            self._before[id(tensor)] = tensor, tensor.detach().clone()

    def __enter__(self) -> Rollback:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is not None:
            with torch.no_grad():
                for tensor, value in self._before.values():
                    tensor.copy_(value)
