"""Calibration batches in two parts: one that repairs, one that judges."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from graphprune.calibration.batch_parts import batch_parts
from graphprune.calibration.batches import InputsOnly, as_share, check_calibration, communicator_of
from graphprune.calibration.samples import spread_numbers
from graphprune.utils.tree import tensors_of

JUDGING = 4
"""One batch in so many judges; one sample of a batch, where there is a single one or whole batches are no fair part."""
MOST_SAMPLES = 256
"""Of more samples, batches with about so many are compared by, at even distances: every trial costs a repair with
them."""


@dataclass(frozen=True, eq=False)
class HeldBack:
    """Calibration batches, read once, and their parts.

    Attributes:
        given: all of them, with targets where these were given.
        in_part: are plans compared by fewer than these, in any process?
        everything: those that plans are compared by, with targets where these were given.
        repairing: the inputs of those that repair.
        judging: the inputs of those that judge. A single batch does both where it has fewer than four samples, or they
            cannot be told apart.
    """

    given: Iterable[Any]
    in_part: bool
    everything: Iterable[Any]
    repairing: Iterable[Any]
    judging: Iterable[Any]

    @staticmethod
    def of(model: nn.Module, calibration: Iterable[Any], paired: bool) -> HeldBack:
        """Take batches with about :data:`MOST_SAMPLES` samples, and hold back the last of every four.

        Args:
            model: what they are for.
            calibration: the batches, which are kept in memory.
            paired: they are pairs (inputs, target).

        Raises:
            InputError: they are no batches.
        """
        check_calibration(calibration)
        given, communicator = list(calibration), communicator_of(calibration)
        batches = [given[number] for number in spread_numbers(given, MOST_SAMPLES, least=2)]
        inputs = list(InputsOnly(batches)) if paired else batches
        repairing, judging = _parted(model, inputs)
        in_part = any(communicator.gather(len(batches) < len(given)))
        whole, *parts = (as_share(part, communicator) for part in (given, batches, repairing, judging))
        return HeldBack(whole, in_part, *parts)


def _parted(model: nn.Module, batches: list[Any]) -> tuple[list[Any], list[Any]]:
    """The batches that repair, and those that judge; a single batch that cannot be parted does both."""
    repairing, judging = _whole(batches) if len(batches) > 1 else (batches, batches)
    if len(batches) > 1 and _fair(judging, batches):
        return repairing, judging
    pairs = [batch_parts(model, batch, _sizes) for batch in batches]
    parts = [pair for pair in pairs if pair is not None]
    if not parts:
        return repairing, judging
    more = _whole([batch for batch, pair in zip(batches, pairs, strict=True) if pair is None])
    return [first for first, _ in parts] + more[0], [second for _, second in parts] + more[1]


def _whole(batches: list[Any]) -> tuple[list[Any], list[Any]]:
    """The last of every four batches judges; of fewer, the last of several."""
    judging = set(range(JUDGING - 1, len(batches), JUDGING)) or {len(batches) - 1}
    return [b for i, b in enumerate(batches) if i not in judging], [b for i, b in enumerate(batches) if i in judging]


def _fair(judging: list[Any], batches: list[Any]) -> bool:
    """Have they about as large a part of the data as of the batches? Batches of one length each are uneven.

    Entries are counted, not samples: which dimension has the samples only the model can show.
    """
    part, whole = sum(map(_entries, judging)), sum(map(_entries, batches))
    return whole <= 2 * JUDGING * part and 2 * part <= whole


def _entries(batch: Any) -> int:
    """How many entries the tensors of a batch have; one without a tensor counts as one."""
    return sum(tensor.numel() for tensor in tensors_of(batch)) or 1


def _sizes(count: int) -> tuple[int, int]:
    """How many samples of a batch repair, and how many judge; of a large one, its first are taken."""
    taken = min(count, MOST_SAMPLES)
    return taken - taken // JUDGING, taken // JUDGING
