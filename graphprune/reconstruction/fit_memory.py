"""What fitting a consumer takes, and which way of fitting it there is room for."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from graphprune.calibration.communicator import Communicator
from graphprune.errors import InputError
from graphprune.reconstruction.call_recorder import CallRecorder, Consumer
from graphprune.reconstruction.iterative_regression import CG_STATE, IterativeRegression
from graphprune.reconstruction.memory_bound import BYTES_OF_ENTRY, MemoryBound, free_memory
from graphprune.reconstruction.regression import Regression
from graphprune.utils.byte_sizes import in_units, rounded_up

MATRIX, WEIGHT, VECTOR = 24, 40, 8 * (CG_STATE + 2)
"""Bytes for each pair of channels (the sum, the batch's and the factor), for each entry of a weight (its places, the
old, the new and the change), and for each entry that conjugate gradients solve for."""
RESULT = 32
"""Bytes of the workspace for each entry of a result."""
WORKSPACE = 2**28
"""Bytes that a workspace is not made larger than."""
PLENTY = 2**26
"""Bytes that are taken without asking how many are free."""


def for_matrices(consumer: Consumer) -> int:
    """Bytes for a fit from the matrix of second moments."""
    blocks, channels, _ = consumer.shape
    return MATRIX * blocks * channels**2 + _for_weight(consumer)


def for_vectors(consumer: Consumer, entries: int) -> int:
    """Bytes for a fit by conjugate gradients that solves for some entries at a time."""
    return VECTOR * entries + _for_weight(consumer)


def _for_weight(consumer: Consumer) -> int:
    blocks, channels, outputs = consumer.shape
    return WEIGHT * blocks * channels * outputs


def _least(consumer: Consumer) -> int:
    blocks, channels, _ = consumer.shape
    return min(for_matrices(consumer), for_vectors(consumer, blocks * channels))


def _for_sample(consumer: Consumer) -> int:
    entries, results = consumer.sample
    return BYTES_OF_ENTRY * entries + RESULT * results


def bounded(
    limit: int | None, dense: CallRecorder, slim: CallRecorder, fitted: Sequence[Consumer], communicator: Communicator
) -> MemoryBound:
    """The bound, once it is known what the models take. Processes go by the one that has least.

    Args:
        limit: bytes; None: there is no bound.
        fitted: the consumers that are to be fitted.

    Raises:
        InputError: the bound is too small; the message says what the smallest is, and what takes it.
    """
    limits = communicator.gather(limit)
    limit = min((one for one in limits if one is not None), default=None)
    memory = MemoryBound(limit)
    memory.shared = communicator.count > 1
    if limit is None or not fitted:
        device = fitted[0].first.x.device if fitted else torch.device("cpu")
        memory.free = min(communicator.gather(free_memory(device))) if memory.shared else None
        return memory
    calls = max(one.largest for recorder in (dense, slim) for one in recorder.consumers.values())
    memory.running = max(communicator.gather(dense.peak + slim.peak + 2 * calls))
    widest = max(fitted, key=lambda one: _least(one) + _for_sample(one))
    left = limit - memory.running - max(map(_least, fitted))
    least = max(map(_for_sample, fitted))
    if left < least:
        blocks, inputs, outputs = widest.shape
        needed = rounded_up(limit - left + least)
        raise InputError(
            f"memory: {in_units(limit)} is too little; repair needs at least {needed}: {in_units(memory.running)} for "
            f"one batch in both models, {in_units(limit - left + least - memory.running)} to fit {widest.key.name} "
            f"[{blocks * outputs} outputs, {inputs} inputs]",
            found=in_units(limit),
            needed=f"at least {needed}",
            do=f"pass memory={needed.replace(' ', '')!r} or more, or smaller batches if these take most of it",
        )
    memory.workspace = max(communicator.gather(max(least, min(left // 2, limit // 8, WORKSPACE))))
    return memory


def regression_for(consumer: Consumer, memory: MemoryBound) -> tuple[Regression | IterativeRegression, int] | None:
    """The way of fitting a consumer for which there is room, and the bytes it takes; None if there is none now."""
    needed = for_matrices(consumer)
    if memory.limit is None:
        if needed <= PLENTY:
            return Regression(), needed
        room = free_memory(consumer.first.x.device) if memory.free is None else memory.free
        if needed <= room:
            return Regression(), needed
    elif needed <= (room := memory.room()):
        return Regression(), needed
    elif _least(consumer) > room:
        return None
    column = consumer.shape[0] * consumer.shape[1]
    entries = max(column, min(column * consumer.shape[2], (room - _for_weight(consumer)) // VECTOR))
    return IterativeRegression(memory, entries), for_vectors(consumer, entries)
