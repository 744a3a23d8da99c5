"""Calibration batches in two parts: one that repairs, one that judges."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from graphprune.calibration.batches import InputsOnly, check_calibration, communicator_of
from graphprune.calibration.communicator import Communicator
from graphprune.calibration.process_batches import ProcessBatches
from graphprune.calibration.samples import SampleAxes, spread_numbers

JUDGING = 4
"""One batch, or one sample of a single batch, in so many judges."""
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
        judging: the inputs of those that judge. A single batch of fewer than four samples does both.
    """

    given: Iterable[Any]
    in_part: bool
    everything: Iterable[Any]
    repairing: Iterable[Any]
    judging: Iterable[Any]

    @staticmethod
    def of(calibration: Iterable[Any], paired: bool) -> HeldBack:
        """Take batches with about :data:`MOST_SAMPLES` samples, and hold back the last of every four.

        Args:
            calibration: the batches, which are kept in memory.
            paired: they are pairs (inputs, target).

        Raises:
            InputError: they are no batches.
        """
        check_calibration(calibration)
        given, communicator = list(calibration), communicator_of(calibration)
        batches = [given[number] for number in spread_numbers(given, MOST_SAMPLES, least=2)]
        inputs = list(InputsOnly(batches)) if paired else batches
        repairing, judging = _parted(inputs)
        in_part = any(communicator.gather(len(batches) < len(given)))
        whole, *parts = (_shared(part, communicator) for part in (given, batches, repairing, judging))
        return HeldBack(whole, in_part, *parts)


def _parted(batches: list[Any]) -> tuple[list[Any], list[Any]]:
    """The batches that repair, and those that judge."""
    if len(batches) == 1:
        return _parted_samples(batches[0])
    judging = set(range(JUDGING - 1, len(batches), JUDGING)) or {len(batches) - 1}
    return [b for i, b in enumerate(batches) if i not in judging], [b for i, b in enumerate(batches) if i in judging]


def _parted_samples(batch: Any) -> tuple[list[Any], list[Any]]:
    """A single batch in two, along its first dimension; of a large one, its first samples."""
    axes = SampleAxes.of(batch, 0)
    if axes is None or axes.count < JUDGING:
        return [batch], [batch]
    taken = min(axes.count, MOST_SAMPLES)
    repairing = taken - taken // JUDGING
    return [axes.samples(batch, 0, repairing)], [axes.samples(batch, repairing, taken - repairing)]


def _shared(batches: list[Any], communicator: Communicator) -> Iterable[Any]:
    """The batches as those of this process, where several share them."""
    return batches if communicator.count == 1 else ProcessBatches(batches, True, communicator)
