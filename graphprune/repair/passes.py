"""Run two models on the same calibration batches, as often as repair needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.calibration import _BATCHES, _lent, _shown
from graphprune.errors import InputError
from graphprune.inputs import describe, normalise
from graphprune.nested import map_tensors


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
        if isinstance(given, Tensor | Mapping | str) or not isinstance(given, Iterable):
            raise InputError(f"calibration: is a {type(given).__name__}; pass {_BATCHES}, such as [batch]")
        if isinstance(given, Iterator):
            raise InputError(
                f"calibration: is a {type(given).__name__}, which can be read only once, and repair goes through the "
                "batches several times; pass a list or a DataLoader, or repair=False to prune_model"
            )

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """The batches with their numbers.

        Raises:
            InputError: there are none, or one is not what a model can be called with.
        """
        number = -1
        for number, batch in enumerate(_shown(self.calibration)):
            if not isinstance(batch, Tensor | tuple | list | Mapping):
                raise InputError(f"calibration: batch {number} is a {type(batch).__name__}; pass {_BATCHES}")
            yield number, batch
        if number < 0:
            raise InputError(f"calibration: there are no batches; pass {_BATCHES}")


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
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise InputError(
                    f"calibration: with loss_fn= a batch is a pair (inputs, target), but batch {number} is a "
                    f"{type(pair).__name__}"
                )
            yield pair[0]


def run(model: nn.Module, number: int, batch: Any, watch: AbstractContextManager) -> None:
    """Call a model with a batch while ``watch`` is active, until that has seen enough.

    Raises:
        InputError: the model failed.
    """
    args, kwargs = normalise(batch)
    devices = {p.device for p in model.parameters()}
    if len(devices) == 1:
        device = devices.pop()
        args, kwargs = map_tensors(lambda t: t.to(device), (args, kwargs))
    try:
        with watch:
            model(*args, **kwargs)
    except Enough:
        return
    except Exception as error:
        given = describe(args + tuple(kwargs.values()))
        raise InputError(
            f"calibration: {type(model).__name__}.forward failed on batch {number} ({given}): "
            f"{type(error).__name__}: {error}; pass batches of inputs alone, without targets"
        ) from error


@contextmanager
def lent(*models: nn.Module) -> Iterator[None]:
    """Models in evaluation mode and without gradients; afterwards modes and gradients are as they were."""
    with ExitStack() as stack, torch.no_grad():
        for model in models:
            stack.enter_context(_lent(model))
        yield


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
