"""Exchanges between the processes of ``torch.distributed`` that share calibration data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from graphprune.errors import InputError, ProcessError
from graphprune.utils.modules import named_tensors

T = TypeVar("T")

TIMEOUT = 1800.0
"""Seconds that a process waits for the others, as torch does."""

_BROADCAST = (
    "give all processes the same weights before (torch.distributed.broadcast, or DistributedDataParallel's .module)"
)
_BROADCAST_BUFFERS = (
    "give all processes the averages of one, which DistributedDataParallel does before the next forward only: "
    "for buffer in model.buffers(): torch.distributed.broadcast(buffer, 0)"
)


class Communicator:
    """The processes that share calibration data; of a single process, every method returns at once.

    Every exchange begins with one of states: where a process has failed, all raise, and none waits for it.

    Args:
        count: the number of processes.
        rank: the number of this one.
        group: a process group of ``torch.distributed``; None: the default group.
        timeout: seconds to wait for the others.
    """

    def __init__(self, count: int = 1, rank: int = 0, group: Any = None, timeout: float = TIMEOUT) -> None:
        self.count = count
        self.rank = rank
        self._group = group
        self._timeout = timedelta(seconds=timeout)
        self._device = _device_of(group) if count > 1 else torch.device("cpu")
        self._depth = 0
        self._ended = False

    @staticmethod
    def of(group: Any, timeout: float) -> Communicator:
        """The processes of a group; this process alone where ``torch.distributed`` was not begun.

        Raises:
            InputError: this process is not in the group.
        """
        if not (distributed.is_available() and distributed.is_initialized()):
            return Communicator()
        rank = distributed.get_rank(group)
        if rank < 0:
            raise InputError(
                "group: this process is not one of the group's",
                where=f"process {distributed.get_rank()}",
                found="a group without this process",
                needed="a group of which this process is a part",
                do="make this call in the processes of the group alone",
            )
        return Communicator(distributed.get_world_size(group), rank, group, timeout)

    @contextmanager
    def together(self) -> Iterator[None]:
        """A part of a program that ends in all processes when it fails in one. It can be nested.

        Raises:
            ProcessError: another process failed.
        """
        self._ended &= self._depth > 0
        self._depth += 1
        try:
            yield
            self._exchange(None)
        except BaseException as error:
            self._tell(error)
            raise
        finally:
            self._depth -= 1

    def gather(self, value: T) -> list[T]:
        """The value of each process, which can be pickled.

        Raises:
            ProcessError: another process failed, or does not answer.
        """
        if self.count == 1:
            return [value]
        self._exchange(None)
        return self._gathered(value)

    def sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors, of the same shapes in all processes, by their sums over processes.

        Raises:
            ProcessError: another process failed, or does not answer.
        """
        if self.count == 1:
            return
        self._exchange(None)
        for tensor in tensors:
            buffer = tensor.to(self._device, copy=True).contiguous()
            self._call(partial(self._reduce, buffer, distributed.ReduceOp.SUM))
            tensor.copy_(buffer)

    def total(self, number: int) -> int:
        """The sum of an integer over processes."""
        return sum(self.gather(number))

    def union(self, values: Iterable[T]) -> list[T]:
        """The values that any process has, in the order of the first process and then of the others."""
        return list(dict.fromkeys(value for found in self.gather(list(values)) for value in found))

    def check_same_model(self, model: nn.Module) -> None:
        """Raise an InputError unless the tensors of a model are the same in all processes.

        Raises:
            InputError: the message names the first tensor that is not.
        """
        if self.count == 1:
            return
        found = self.gather({name: checksum(tensor) for name, tensor in named_tensors(model)})
        for rank, other in enumerate(found):
            differing = [name for name in found[0].keys() | other.keys() if found[0].get(name) != other.get(name)]
            if differing:
                averages = {name for name, _ in model.named_buffers()}.issuperset(differing)
                raise InputError(
                    f"model: {min(differing)} is not the same in process 0 and process {rank}",
                    where=f"{min(differing)} in process {rank}",
                    found=f"{len(differing)} tensors with other values" + (", all of them buffers" if averages else ""),
                    needed="the same weights in all processes",
                    do=_BROADCAST_BUFFERS if averages else _BROADCAST,
                )

    # ------------------------------------------------------------ exchanges

    def _tell(self, error: BaseException) -> None:
        """Tell the other processes of an error, unless they know of it or have failed themselves."""
        if not self._ended:
            with suppress(ProcessError):
                self._exchange(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)

    def _exchange(self, failure: str | None) -> None:
        """Wait for all processes, and raise a ProcessError if one has failed."""
        if self.count == 1:
            return
        failed = torch.tensor(int(failure is not None), device=self._device)
        self._call(lambda: self._reduce(failed, distributed.ReduceOp.MAX))
        if failed:
            self._ended = True
            causes = {rank: cause for rank, cause in enumerate(self._gathered(failure)) if cause is not None}
            rank, cause = next(iter(causes.items()))
            raise ProcessError(
                f"process {rank} of {self.count} failed, so all ended: {cause}",
                where=f"process {rank} of {self.count}",
                found=cause,
                needed="all processes to get to the end",
                do=f"mend what process {rank} says, and run all of them again",
            )

    def _reduce(self, tensor: Tensor, operation: Any) -> None:
        work = distributed.all_reduce(tensor, op=operation, group=self._group, async_op=True)
        work.wait(self._timeout)

    def _gathered(self, value: T) -> list[T]:
        found: list[Any] = [None] * self.count
        self._call(lambda: distributed.all_gather_object(found, value, group=self._group))
        return found

    def _call(self, operation: Callable[[], None]) -> None:
        """Run a collective operation of torch.

        Raises:
            ProcessError: a process has ended, or does not answer.
        """
        try:
            operation()
        except RuntimeError as error:
            self._ended = True
            raise ProcessError(
                f"process {self.rank} of {self.count} has no answer from another one within "
                f"{self._timeout.total_seconds():g} s: it has ended, or does not take part: {error}",
                where=f"process {self.rank} of {self.count}",
                found=str(error),
                needed="the same calls with across_processes(...) in all processes of the group",
                do="look for the process that ended, or that makes other calls; where one is slow, pass a longer "
                "timeout=",
            ) from error


def _device_of(group: Any) -> torch.device:
    """Where tensors are for exchanges of a group: the CPU if its backend can."""
    if "cpu" in str(distributed.get_backend_config(group)) or not torch.accelerator.is_available():
        return torch.device("cpu")
    return torch.accelerator.current_accelerator() or torch.device("cpu")


ALONE = Communicator()
"""A single process."""


def checksum(tensor: Tensor) -> int:
    """A number that equal tensors have in common, and others hardly; 0 of tensors without memory of their own."""
    if tensor.is_meta or tensor.layout is not torch.strided:
        return 0
    return int(tensor.detach().flatten().view(torch.uint8).sum(dtype=torch.int64))
