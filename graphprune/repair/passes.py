"""Run two models on the same calibration batches, as often as repair needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.errors import InputError
from graphprune.feeding import arguments, check_calibration, forward, moved_to, numbered, pair_of


class Enough(BaseException):
    """What a pass was made for has been seen: ends the run. Not an error, so that no model catches it."""


@dataclass(frozen=True)
class Batches:
    """Calibration batches that can be gone through several times.

    Raises:
        InputError: ``calibration`` is no iterable of batches, or can be read only once.
    """

    calibration: Iterable[Any]

    def __post_init__(self) -> None:
        given = self.calibration
        check_calibration(given)
        if isinstance(given, Iterator):
            raise InputError(
                f"calibration: is a {type(given).__name__}, which can be read only once, and repair goes through the "
                "batches several times; pass a list or a DataLoader, or repair=False to prune_model"
            )

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """The batches with their numbers.

        Raises:
            InputError: there are none.
        """
        return numbered(self.calibration)


@dataclass(frozen=True)
class Inputs:
    """The inputs of calibration batches that are pairs (inputs, target)."""

    pairs: Iterable[Any]

    def __iter__(self) -> Iterator[Any]:
        """The inputs of each batch.

        Raises:
            InputError: a batch is no pair.
        """
        for number, pair in enumerate(self.pairs):
            yield pair_of(number, pair)[0]


def run(model: nn.Module, number: int, batch: Any, watch: AbstractContextManager) -> None:
    """Call a model with a batch while ``watch`` is active, until that has seen enough.

    Raises:
        InputError: the model failed, or the batch is not what one can be called with.
    """
    args, kwargs = moved_to(model, arguments(number, batch))
    with suppress(Enough), watch:
        forward(model, number, args, kwargs, "pass batches of inputs alone, without targets")


class Undo:
    """Puts back the values of tensors that were noted, if what is done meanwhile fails."""

    def __init__(self) -> None:
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def note(self, tensor: Tensor) -> None:
        """Remember a tensor's values: it is about to be written to."""
        if id(tensor) not in self._before:
            self._before[id(tensor)] = tensor, tensor.detach().clone()

    def __enter__(self) -> Undo:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is not None:
            with torch.no_grad():
                for tensor, value in self._before.values():
                    tensor.copy_(value)
