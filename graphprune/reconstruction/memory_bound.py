"""A bound on what repair holds beside the models and the batches: what waits is moved out of the way beyond it."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from graphprune.errors import InputError
from graphprune.reconstruction.executed_call import ExecutedCall
from graphprune.reconstruction.tensor_group import TensorGroup
from graphprune.utils.byte_sizes import read_size
from graphprune.utils.operators import Args, Kwargs
from graphprune.utils.tree import tensors_of

BYTES_OF_ENTRY = 16
"""Bytes of the workspace for each entry of an unfolded input."""
MemorySpec = int | str
"""A number of bytes, or one with a unit (``"4GB"``)."""


def parse_memory(spec: MemorySpec | None) -> int | None:
    """A bound on memory in bytes; None: there is none.

    Raises:
        InputError: it is no positive number with a unit of bytes.
    """
    return None if spec is None else read_size("memory", spec)


def check_repaired(memory: MemorySpec | None, repaired: bool) -> None:
    """Raise an InputError if a bound on the memory of repair is no bound, or nothing is repaired."""
    if parse_memory(memory) is not None and not repaired:
        raise InputError(
            "memory: bounds what repair holds, and nothing is repaired",
            found=f"memory={memory!r} without calibration=, or with repair=False",
            needed="calibration batches to repair with",
            do="pass calibration=batches too, or leave out memory=",
        )


class MemoryBound:
    """What is held, and the bound on it.

    Attributes:
        limit: bytes on each device; None: nothing is moved.
        running: bytes that a forward pass of both models takes at its peak.
        workspace: bytes for the products of a batch.
        reserved: bytes of moments.
        shared: other processes decide by the same numbers, so what is reserved now does not count.
        free: the bytes that are free in every process; None: this is the only one.
    """

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.running = 0
        self.workspace = 0
        self.reserved = 0
        self.shared = False
        self.free: int | None = None
        self._groups: list[TensorGroup] = []  # the one that was used last is the last
        self._away: dict[int, TensorGroup] = {}  # by the identity of a storage that is moved out

    @property
    def piece(self) -> int | None:
        """Entries of an input that are worked on at once; None: as many as is fast."""
        return None if self.limit is None else self.workspace // BYTES_OF_ENTRY

    def group(self) -> TensorGroup | None:
        """A new group; None if nothing is to be moved."""
        if self.limit is None:
            return None
        self._groups.append(TensorGroup())
        return self._groups[-1]

    def drop(self, group: TensorGroup | None) -> None:
        """Forget a group and delete its file."""
        if group is not None and group in self._groups:
            self._groups.remove(group)
            self._away = {key: one for key, one in self._away.items() if one is not group}
            group.close()

    def room(self) -> int:
        """The bytes that are left for moments, if all that waits is moved."""
        assert self.limit is not None
        return self.limit - self.running - self.workspace - (0 if self.shared else self.reserved)

    def use(self, group: TensorGroup | None, running: bool) -> None:
        """Bring a group's tensors back, after moving out others beyond the bound.

        Those that were used last go first: groups are used in turn, so they are needed last.

        Args:
            running: a forward pass goes on.
        """
        if self.limit is None or group is None:
            return
        taken = max(group.size, self.running if running else 0) + self.workspace + self.reserved
        others = [one for one in self._groups if one is not group]
        held = sum(one.size - one.moved_out for one in others)
        for one in reversed(others):
            if held + taken <= self.limit:
                break
            held -= one.size - one.moved_out
            self.move_out(one)
        self._groups = [*others, group]
        self._bring_back(group)

    def move_out(self, group: TensorGroup) -> None:
        """Move a group's tensors out: to the CPU within the bound, otherwise to a file."""
        assert self.limit is not None
        group.move_out(self.limit - sum(other.on_host for other in self._groups))
        self._away |= dict.fromkeys(group.identities_out, group)

    def recall(self, args: Args, kwargs: Kwargs) -> None:
        """Bring back what a running pass shares with one that waits."""
        for tensor in tensors_of((args, kwargs)):
            group = self._away.get(tensor.untyped_storage()._cdata) if type(tensor) is Tensor else None
            if group is not None:
                self._bring_back(group)

    def _bring_back(self, group: TensorGroup) -> None:
        for key in group.identities_out:
            self._away.pop(key, None)
        group.bring_back()


@dataclass(frozen=True)
class WaitingTensors:
    """The tensors of a pair of passes; nothing is done about them if ``group`` is None."""

    memory: MemoryBound
    group: TensorGroup | None

    def recall(self, args: Args, kwargs: Kwargs) -> None:
        """Bring back what another pass has moved out and this one reads."""
        if self.group is not None:
            self.memory.recall(args, kwargs)

    def add_results(self, call: ExecutedCall) -> None:
        """Add what a call has made."""
        if self.group is not None:
            self.group.add(call.created)

    def added(self, tensor: Tensor) -> Tensor:
        """A tensor, which is added."""
        if self.group is not None:
            self.group.add([tensor])
        return tensor


def free_memory(device: torch.device) -> int:
    """The bytes that are free on a device: physical memory, within the limit of a container."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = [_available(), *_of_container()]
    return min(free)


def _available() -> int:
    meminfo = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s*(\d+) kB", meminfo.read_text()) if meminfo.exists() else None
    return int(found[1]) * 1024 if found else sys.maxsize


def _of_container() -> list[int]:
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if not (limit.exists() and used.exists()) or limit.read_text().strip() == "max":
        return []
    return [max(0, int(limit.read_text()) - int(used.read_text()))]
