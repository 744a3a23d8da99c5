"""Batches of training data: what they mean to a model, and the same order in every run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from graphprune.errors import InputError
from graphprune.tracing.inputs import are_inputs, describe, normalize
from graphprune.utils.checks import found_value, with_article
from graphprune.utils.own_objects import own_copy, with_own_objects
from graphprune.utils.random_state import mixed_seed, random_state, seed_all, set_random_state
from graphprune.utils.tree import map_tensors, tensors_of

TrainingCall = tuple[tuple[Any, ...], dict[str, Any], Any]
"""Positional arguments, keyword arguments, and the target (None: the batch has none)."""


NEEDED = (
    "an iterable that can be read again and again (a DataLoader, a list) of pairs (inputs, target), or of dicts of "
    "keyword arguments with which the model computes its own loss"
)


def check_training_data(batches: Any) -> None:
    """Raise an InputError unless ``batches`` can be gone through every epoch."""
    if isinstance(batches, Tensor | Mapping | str | Iterator) or not isinstance(batches, Iterable):
        raise InputError(
            f"batches: is {with_article(type(batches).__name__)}",
            found=found_value(batches),
            needed=NEEDED,
            do="pass a DataLoader, or a list such as [(inputs, target)]",
        )


def training_call(batch: Any, device: torch.device) -> TrainingCall:
    """A batch as arguments of a call and a target, on ``device``. A batch without a target has only inputs.

    Objects among the inputs, such as caches, are copies: what the model keeps in them is of this call.

    Raises:
        InputError: the batch is neither a pair, a dict nor a tensor, holds no samples, or is on ``meta``.
    """
    inputs, target = batch, None
    if isinstance(batch, tuple | list):
        if len(batch) != 2:
            raise InputError(
                f"batches: a batch is {with_article(type(batch).__name__)} of {len(batch)}",
                found=f"{with_article(type(batch).__name__)} of {len(batch)}",
                needed=NEEDED,
                do="give batches as pairs: ((first, second), target) for a model of two inputs",
            )
        inputs, target = batch
    if not are_inputs(inputs):
        raise InputError(
            f"batches: the inputs of a batch are {with_article(type(inputs).__name__)}",
            found=found_value(inputs),
            needed=NEEDED,
            do="give the inputs as a tensor, a tuple of positional or a dict of keyword arguments",
        )
    tensors = list(tensors_of(inputs))
    if tensors and not any(t.numel() for t in tensors):
        raise InputError(
            "batches: a batch holds no samples",
            found=describe(inputs),
            needed="batches of one sample or more",
            do="leave the batch out",
        )
    if any(t.is_meta for t in tensors_of((inputs, target))):
        raise InputError(
            "batches: a batch is on meta and has no values",
            found=f"{describe((inputs, target))}, on meta",
            needed="tensors with values",
            do="give batches of real data, on any other device",
        )
    args, kwargs, target = map_tensors(lambda t: t.to(device, non_blocking=True), (*normalize(inputs), target))
    return *with_own_objects((args, kwargs), _untrained_copy), target


def _untrained_copy(tensor: Tensor) -> Tensor:
    """A copy of a tensor in an object; one that takes part in training, such as a prompt, is what it is."""
    return tensor if tensor.requires_grad else own_copy(tensor)


def in_order(batches: Iterable[Any], source: Iterable[Any], seed: int, epoch: int, skip: int) -> Iterator[Any]:
    """The batches of an epoch from number ``skip`` on, the same in every run.

    What draws random numbers to make batches has generators of its own: they are seeded for the epoch, and what is
    drawn between two batches does not change the next one. So a run that is resumed sees what it would have seen.

    Args:
        batches: what is read.
        source: what it was made from, which holds the generators (the same, unless batches are dealt to processes).
    """
    seed_all(seed, epoch)
    for generator in _generators(source):
        generator.manual_seed(mixed_seed(seed, epoch))
    for set_epoch in _setters(batches):
        set_epoch(epoch)
    iterator = iter(batches)
    for number in range(skip):
        if next(iterator, iterator) is iterator:
            raise InputError(
                f"batches: there are only {number} in epoch {epoch}, but {skip} were read before",
                where=f"epoch {epoch}",
                found=f"{number} batches",
                needed=f"more than {skip}, as in the training that is resumed",
                do="pass the batches with which the training began, or another checkpoint folder",
            )
    while True:
        batch = next(iterator, iterator)
        if batch is iterator:
            return
        state = random_state()
        yield batch
        set_random_state(state)


def _parts(batches: Any) -> list[Any]:
    """A loader, its dataset, and its samplers."""
    sampler = getattr(batches, "batch_sampler", None)
    found = (batches, getattr(batches, "dataset", None), sampler, getattr(batches, "sampler", None))
    return [part for part in (*found, getattr(sampler, "sampler", None)) if part is not None]


def _generators(batches: Any) -> list[torch.Generator]:
    found = (getattr(part, "generator", None) for part in _parts(batches))
    return [generator for generator in found if isinstance(generator, torch.Generator)]


def _setters(batches: Any) -> list[Callable[[int], object]]:
    """What distributed samplers and streamed datasets are told the epoch with."""
    setters = (getattr(part, "set_epoch", None) for part in _parts(batches))
    return [setter for setter in setters if callable(setter)]
