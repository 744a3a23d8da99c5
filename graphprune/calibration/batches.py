"""Calibration batches: what a batch is, iteration with a progress bar, and the call of a model with a batch."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.calibration.communicator import ALONE, Communicator
from graphprune.calibration.process_batches import ProcessBatches, warn_of_unshared
from graphprune.errors import EndlessBatchesWarning, InputError
from graphprune.tracing.inputs import are_inputs, describe, normalize
from graphprune.tracing.places import raised_at
from graphprune.utils.callers import frames_of_this_package
from graphprune.utils.checks import found_value, with_article
from graphprune.utils.operators import Args, Kwargs
from graphprune.utils.own_objects import own_copy, with_own_objects
from graphprune.utils.tree import map_tensors, tensors_of

_MANY = 1000
"""Batches without a length of which there are more may have no end."""

BATCHES = (
    "an iterable of batches: each a tensor, a tuple of positional or a dict of keyword arguments, or with loss_fn= a "
    "pair (inputs, target)"
)


def check_calibration(calibration: Any) -> None:
    """Raise an InputError unless ``calibration`` is an iterable of batches."""
    if isinstance(calibration, Tensor | Mapping | str) or not isinstance(calibration, Iterable):
        raise InputError(
            f"calibration: is {with_article(type(calibration).__name__)}, not an iterable of batches",
            found=found_value(calibration),
            needed=BATCHES,
            do="pass a list of batches such as [batch], or a DataLoader",
        )
    warn_of_unshared(calibration)


def communicator_of(calibration: Any) -> Communicator:
    """The processes that share calibration batches."""
    if isinstance(calibration, InputsOnly):
        return communicator_of(calibration.pairs)
    return calibration.communicator if isinstance(calibration, ProcessBatches) else ALONE


def is_read_once(calibration: Any) -> bool:
    """Whether batches are an iterator, which is empty the second time."""
    return isinstance(calibration.batches if isinstance(calibration, ProcessBatches) else calibration, Iterator)


def as_share(batches: list[Any], communicator: Communicator) -> Iterable[Any]:
    """The batches as those of this process, where several share them."""
    return batches if communicator.count == 1 else ProcessBatches(batches, True, communicator)


def numbered(calibration: Iterable[Any]) -> Iterator[tuple[int, Any]]:
    """The batches with their numbers, with a progress bar if stderr is a terminal.

    Warns where there are so many that they may have no end, as those of a loader that begins anew have none.

    Raises:
        InputError: there are none.
    """
    number = -1
    for number, batch in enumerate(_shown(calibration)):
        if number == _MANY and not _has_length(calibration):
            warnings.warn(
                f"calibration: {_MANY:,} batches were read and there are more. All are read, and those of an iterable "
                "without end for ever; a hundred or so are enough: list(itertools.islice(batches, 100))",
                EndlessBatchesWarning,
                stacklevel=frames_of_this_package(),
            )
        yield number, batch
    if number < 0 and communicator_of(calibration).count == 1:  # else another process may have some
        raise InputError(
            "calibration: there are no batches",
            found="an iterable that ends at once",
            needed=BATCHES,
            do="pass a list of batches such as [batch], or a DataLoader; a generator that was read before is empty",
        )


def _has_length(calibration: Any) -> bool:
    """Does it say how many batches there are?"""
    if isinstance(calibration, InputsOnly | ProcessBatches):
        return _has_length(calibration.pairs if isinstance(calibration, InputsOnly) else calibration.batches)
    try:
        len(calibration)
    except TypeError:
        return False
    return True


def _shown(batches: Iterable[Any]) -> Iterable[Any]:
    """The batches, with a progress bar if stderr is a terminal."""
    if not sys.stderr.isatty():
        return batches
    from rich.console import Console  # importing rich takes longer than tracing a model
    from rich.progress import track

    return track(batches, "calibration", console=Console(stderr=True), transient=True)


def pair_of(number: int, batch: Any) -> tuple[Any, Any]:
    """The inputs and the target of a batch.

    Raises:
        InputError: the batch is no pair, or the target is on ``meta``.
    """
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise InputError(
            f"calibration: with loss_fn= a batch is a pair (inputs, target), but batch {number} is a "
            f"{type(batch).__name__}",
            where=f"batch {number} of calibration",
            found=f"{with_article(type(batch).__name__)}: {describe(batch)}",
            needed="a pair (inputs, target)",
            do="pass batches with their targets, or leave out loss_fn=",
        )
    _check_values(number, batch[1])
    return batch[0], batch[1]


def _check_values(number: int, given: Any) -> None:
    """Raise an InputError if a batch has tensors on ``meta``."""
    if any(tensor.is_meta for tensor in tensors_of(given)):
        raise InputError(
            f"calibration: batch {number} is on meta and has no values",
            where=f"batch {number} of calibration",
            found=f"{describe(given)} on meta",
            needed="tensors with values",
            do="pass batches of real data, on any other device",
        )


def call_arguments(number: int, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs of a batch as positional and keyword arguments.

    Raises:
        InputError: they are neither a tensor, a tuple, a list nor a dict, the first tensor holds no sample, or a
            tensor is on ``meta``.
    """
    if not are_inputs(inputs):
        raise InputError(
            f"calibration: batch {number} is {with_article(type(inputs).__name__)}",
            where=f"batch {number} of calibration",
            found=found_value(inputs),
            needed=BATCHES,
            do="pass a list of batches such as [batch]; for arrays, torch.from_numpy(array)",
        )
    _check_values(number, inputs)
    first = next(tensors_of(inputs), None)
    if first is not None and first.ndim and not len(first):
        raise InputError(
            f"calibration: batch {number} holds no samples",
            where=f"batch {number} of calibration",
            found=describe(inputs),
            needed="batches of one sample or more",
            do="leave the batch out",
        )
    return normalize(inputs)


def not_finite(what: str, number: int | None = None) -> InputError:
    """The error of calibration data with which a model computes NaN or infinity.

    Args:
        what: is not finite.
        number: of the batch, if it is known.
    """
    where = "" if number is None else f" with batch {number}"
    return InputError(
        f"calibration: {what} are not finite{where}, so nothing can be learned from them",
        where=what if number is None else f"batch {number} of calibration",
        found=f"NaN or infinity in {what}",
        needed="numbers that are finite wherever a weight reads or makes them",
        do="look for NaN in this batch, in the weights, and in positions that a mask excludes altogether, and leave "
        "such samples and positions out",
    )


def moved_to(model: nn.Module, value: Any) -> Any:
    """Nested tensors moved to the model's device; unchanged if the model has no device or several."""
    devices = {p.device for p in model.parameters()}
    if len(devices) != 1:
        return value
    device = devices.pop()
    return map_tensors(lambda t: t.to(device), value)


def call_model(model: nn.Module, number: int, args: Args, kwargs: Kwargs, advice: str = "") -> Any:
    """The model's output for a batch.

    The model gets tensors and objects of its own: it may write to them, and the next model is to see the same batch.

    Args:
        advice: what to do about a failure, for the error message.

    Raises:
        InputError: the model failed.
    """
    args, kwargs = with_own_objects(map_tensors(own_copy, (args, kwargs)))
    try:
        return model(*args, **kwargs)
    except Exception as error:
        raise InputError(
            f"calibration: {type(model).__name__}.forward failed on batch {number}: {type(error).__name__}: {error}",
            where="\n".join(filter(None, (f"batch {number} of calibration", raised_at(error)))),
            found=describe(args + tuple(kwargs.values())),
            needed=f"what {type(model).__name__}.forward takes",
            do=_DENSE if _any_sparse((args, kwargs)) else (advice if len(args) > 1 else "") or _RUNNING,
        ) from error


_RUNNING = "pass batches with which model(...) runs in evaluation mode, in the order and types of its arguments"
_DENSE = "make the sparse tensors that layers read dense: batch.to_dense()"


def _any_sparse(given: Any) -> bool:
    return any(tensor.layout is not torch.strided for tensor in tensors_of(given))


@dataclass(frozen=True)
class Batches:
    """Calibration batches that can be iterated several times.

    Raises:
        InputError: ``calibration`` is no iterable of batches, or can be read only once.
    """

    calibration: Iterable[Any]

    def __post_init__(self) -> None:
        given = self.calibration
        check_calibration(given)
        if is_read_once(given):
            raise InputError(
                f"calibration: is {with_article(type(given).__name__)}, which can be read only once",
                found=f"{with_article(type(given).__name__)}",
                needed="batches that can be read several times",
                do="pass a list or a DataLoader: list(...) of it, if it fits into memory",
            )

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        """The batches with their numbers.

        Raises:
            InputError: there are none.
        """
        return numbered(self.calibration)

    @property
    def communicator(self) -> Communicator:
        """The processes that share the batches."""
        return communicator_of(self.calibration)


@dataclass(frozen=True)
class InputsOnly:
    """The inputs of calibration batches that are pairs (inputs, target)."""

    pairs: Iterable[Any]

    def __iter__(self) -> Iterator[Any]:
        """The inputs of each batch.

        Raises:
            InputError: a batch is no pair.
        """
        for number, pair in enumerate(self.pairs):
            yield pair_of(number, pair)[0]
