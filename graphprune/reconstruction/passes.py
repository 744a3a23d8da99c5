"""Forward passes on calibration batches that can end early, and rollback of changed tensors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.calibration.batches import call_arguments, call_model, moved_to
from graphprune.reconstruction.tensor_group import TensorGroup
from graphprune.utils.random_state import random_numbers_of


class StopForward(BaseException):
    """Ends a forward pass early. Not an ``Exception``, so that no handler in a model catches it."""


def run_batch(model: nn.Module, number: int, batch: Any, watch: AbstractContextManager[Any]) -> Any:
    """Run a model on a batch in the context ``watch``, which can end the run by raising :class:`StopForward`.

    Returns:
        What the model returns; None if it was ended early.

    Raises:
        InputError: the model failed, or the batch is neither a tensor, a tuple, a list nor a dict.
    """
    args, kwargs = moved_to(model, call_arguments(number, batch))
    with suppress(StopForward), watch:
        return call_model(model, number, args, kwargs, "pass batches of inputs alone, [x for x, _ in batches]")
    return None


def run_alone(model: nn.Module, number: int, batch: Any, watch: AbstractContextManager[Any]) -> Any:
    """:func:`run_batch` with the random numbers that belong to the batch, if the model draws any."""
    with random_numbers_of(number):
        return run_batch(model, number, batch, watch)


class OtherCalls(BaseException):
    """A batch calls other consumers than the batch of the same shapes, or of another process, that was recorded."""


class Rollback:
    """A context that restores the values of noted tensors if its body raises.

    Args:
        outer: a context around this one, which is told of the tensors too.
        copy: makes the copy of a tensor that is kept; None: that of ``outer``, or in memory.
        to_file: copies wait in a temporary file.
    """

    def __init__(
        self, outer: Rollback | None = None, copy: Callable[[Tensor], Tensor] | None = None, to_file: bool = False
    ) -> None:
        self._outer = outer
        self._copy: Callable[[Tensor], Tensor] = copy or (torch.clone if outer is None else outer._copy)
        self._before: dict[int, tuple[Tensor, Tensor]] = {}
        self._files: TensorGroup | None = None if outer is None else outer._files
        if to_file:
            self._files = TensorGroup()

    def note(self, tensor: Tensor) -> Tensor | None:
        """Save a tensor's values before they are changed; the copy, if it was not noted before."""
        copied = None if self._outer is None else self._outer.note(tensor)
        if id(tensor) in self._before:
            return None
        self._before[id(tensor)] = tensor, self._copied(tensor.detach()) if copied is None else copied
        return self._before[id(tensor)][1]

    @property
    def noted(self) -> list[Tensor]:
        """The tensors that were noted."""
        return [tensor for tensor, _ in self._before.values()]

    def _copied(self, tensor: Tensor) -> Tensor:
        copied = self._copy(tensor)
        if self._files is not None:
            self._files.add([copied])
            self._files.move_out(0)
        return copied

    def __enter__(self) -> Rollback:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is not None:
            if self._files is not None:
                self._files.bring_back()
            with torch.no_grad():
                for tensor, value in self._before.values():
                    tensor.copy_(value)
        if self._files is not None and self._outer is None:
            self._files.close()
