"""Gradients of what is not the model's own, such as the parameters of a loss, are what they were after a pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class OtherGradients:
    """The tensors with gradients that losses depend on beside a model's parameters, and their gradients.

    Attributes:
        model: identities of the model's parameters.
        before: tensors with what ``.grad`` was, by identity.
    """

    model: frozenset[int]
    before: dict[int, tuple[Tensor, Tensor | None]] = field(default_factory=dict)
    _batch: int = -1

    def note(self, batch: int, loss: Tensor) -> None:
        """Set aside the gradients of what a loss depends on; the samples of a batch depend on the same."""
        if batch == self._batch:
            return
        self._batch = batch
        for tensor in _leaves(loss):
            if id(tensor) not in self.model and id(tensor) not in self.before:
                self.before[id(tensor)] = tensor, tensor.grad
                tensor.grad = None

    def put_back(self) -> None:
        """Give all of them their gradients."""
        for tensor, gradient in self.before.values():
            tensor.grad = gradient


@contextmanager
def other_gradients_kept(parameters: Iterable[Tensor]) -> Iterator[OtherGradients]:
    """Put back the gradients of what is not among a model's ``parameters``, and was noted."""
    others = OtherGradients(frozenset(map(id, parameters)))
    try:
        yield others
    finally:
        others.put_back()


def _leaves(loss: Tensor) -> Iterator[Tensor]:
    """The tensors that get a gradient from a loss."""
    waiting: list[Any] = [loss.grad_fn]
    seen: set[Any] = set(waiting)
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        if isinstance(leaf := getattr(node, "variable", None), Tensor):
            yield leaf
        found = {following for following, _ in node.next_functions} - seen
        seen |= found
        waiting.extend(found)
