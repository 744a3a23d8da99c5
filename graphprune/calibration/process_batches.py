"""Calibration batches that the processes of ``torch.distributed`` share."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from torch import distributed
from torch.utils.data import DistributedSampler

from graphprune.calibration.communicator import TIMEOUT, Communicator, checksum
from graphprune.errors import InputError, UnsharedBatchesWarning
from graphprune.tracing.inputs import describe
from graphprune.utils.callers import frames_of_this_package
from graphprune.utils.checks import check_flag, found_value, is_number, with_article
from graphprune.utils.tree import tensors_of


class ProcessBatches:
    """This process's share of calibration batches; made by :func:`across_processes`.

    Args:
        batches: all batches, or with ``dealt`` those of this process.
        dealt: the batches are those of this process.
        communicator: the processes that share them.
    """

    def __init__(self, batches: Iterable[Any], dealt: bool, communicator: Communicator) -> None:
        self.batches = batches
        self.dealt = dealt
        self.communicator = communicator

    def __iter__(self) -> Iterator[Any]:
        """The batches of this process.

        Raises:
            InputError: there are none in any process, or processes that were to have the same have others.
            ProcessError: another process failed.
        """
        count, first = 0, ""
        for batch in self.batches:
            first = first or _fingerprint(batch)
            if self.dealt or count % self.communicator.count == self.communicator.rank:
                yield batch
            count += 1
        self._check(count, first)

    def _check(self, count: int, first: str) -> None:
        found = self.communicator.gather((count, first))
        if not any(number for number, _ in found):
            raise InputError(
                "calibration: there are no batches in any process",
                found="iterables that end at once",
                needed="one batch at least",
                do="pass a list or a DataLoader; a generator that was read before is empty",
            )
        if self.dealt:
            return
        for rank, (number, other) in enumerate(found):
            if (number, other) != found[0]:
                what = f"{found[0][0]} and {number} batches" if number != found[0][0] else "different batches"
                raise InputError(
                    f"calibration: processes 0 and {rank} have {what}, and are to share the same ones",
                    where=f"process {rank}",
                    found=what,
                    needed="the same batches in the same order, or batches of its own in each process",
                    do="pass across_processes(..., dealt=True) if each has batches of its own, and do not shuffle "
                    "otherwise",
                )


def across_processes(
    calibration: Iterable[Any], *, dealt: bool | None = None, group: Any = None, timeout: float = TIMEOUT
) -> ProcessBatches:
    """Calibration batches shared by the processes that ``torchrun`` or ``accelerate launch`` started.

    All processes make the same calls with the result as ``calibration=`` (of :meth:`ChannelGraph.plan`,
    :func:`prune_model`, :func:`repair`, ...). Each runs its share of the batches, moments, scores and gradients are
    summed, and every process has the plan and the weights that one process would have with all batches, to rounding. If
    one process fails or is interrupted, all others raise a :class:`ProcessError`. In a single process nothing changes.

    Args:
        calibration: the batches.
        dealt: every process has batches of its own, perhaps in different numbers, and uses them all. False: all have
            the same, in the same order, and process r of n uses batches r, r + n, ... None: True for a ``DataLoader``
            with a ``DistributedSampler`` or prepared by Accelerate, else False. Both repeat samples so that all
            processes have as many; with False none counts twice. Criteria that draw answers (gradients without a loss)
            take the first batch of each process, then the second of each, and so on: batches that were dealt in turn
            get the answers that one process draws, others get others.
        group: a process group; None: the default group.
        timeout: how many seconds a process waits for the others.

    Raises:
        InputError: ``calibration`` is no iterable, or this process is not in the group.
    """
    if not isinstance(calibration, Iterable):
        raise InputError(
            f"calibration: is {with_article(type(calibration).__name__)}, not an iterable of batches",
            found=found_value(calibration),
            needed="an iterable of batches",
            do="pass a list of batches such as [batch], or a DataLoader",
        )
    if dealt is not None:
        check_flag("dealt", dealt)
    if not is_number(timeout) or not timeout > 0:
        raise InputError(
            f"timeout: is {timeout!r}, not a number of seconds above 0",
            found=found_value(timeout),
            needed="a number of seconds above 0",
            do="pass timeout=600",
        )
    return ProcessBatches(
        calibration, is_dealt(calibration) if dealt is None else dealt, Communicator.of(group, timeout)
    )


def is_dealt(batches: Any) -> bool:
    """Whether a loader gives each process batches of its own."""
    samplers = (getattr(batches, name, None) for name in ("sampler", "batch_sampler"))
    prepared = type(batches).__module__.partition(".")[0] == "accelerate"
    return prepared or any(isinstance(sampler, DistributedSampler) for sampler in samplers)


def warn_of_unshared(batches: Any) -> None:
    """Warn of batches that were dealt to processes, of which each would go its own way."""
    begun = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
    if begun and is_dealt(batches):
        warnings.warn(
            "calibration: every process has batches of its own, and uses them alone, so that processes come to "
            "different plans and weights; pass graphprune.across_processes(calibration)",
            UnsharedBatchesWarning,
            stacklevel=frames_of_this_package(),
        )


def _fingerprint(batch: Any) -> str:
    return f"{describe(batch)} {[checksum(tensor) for tensor in tensors_of(batch)]}"
