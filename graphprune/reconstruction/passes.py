"""Forward passes on calibration batches that can end early, and rollback of changed tensors."""

from __future__ import annotations

from contextlib import AbstractContextManager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.calibration.batches import call_arguments, call_model, moved_to
from graphprune.reconstruction.tensor_group import TensorGroup


class StopForward(BaseException):
    """Ends a forward pass early. Not an ``Exception``, so that no handler in a model catches it."""


def run_batch(model: nn.Module, number: int, batch: Any, watch: AbstractContextManager[Any]) -> None:
    """Run a model on a batch in the context ``watch``, which can end the run by raising :class:`StopForward`.

    Raises:
        InputError: the model failed, or the batch is neither a tensor, a tuple, a list nor a dict.
    """
    args, kwargs = moved_to(model, call_arguments(number, batch))
    with suppress(StopForward), watch:
        call_model(model, number, args, kwargs, "pass batches of inputs alone, without targets")


class OtherCalls(BaseException):
    """A batch calls other consumers than the batch of the same shapes that was recorded."""


class Rollback:
    """A context that restores the values of noted tensors if its body raises.

    Args:
        outer: a context around this one, which is told of the tensors too.
        limit: the bound on memory, if there is one: values are in a temporary file then.
    """

    def __init__(self, outer: Rollback | None = None, limit: int | None = None) -> None:
        self._outer = outer
        self._before: dict[int, tuple[Tensor, Tensor]] = {}
        self._values = None if limit is None else TensorGroup()

    def note(self, tensor: Tensor) -> None:
        """Save a tensor's values before they are changed."""
        if self._outer is not None:
            self._outer.note(tensor)
        if id(tensor) not in self._before:
            value = tensor.detach().clone()
            self._before[id(tensor)] = tensor, value
            if self._values is not None:
                self._values.add([value])
                self._values.move_out(0)

    def __enter__(self) -> Rollback:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is not None:
            if self._values is not None:
                self._values.bring_back()
            with torch.no_grad():
                for tensor, value in self._before.values():
                    tensor.copy_(value)
        if self._values is not None:
            self._values.close()
