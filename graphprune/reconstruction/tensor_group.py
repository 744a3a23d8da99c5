"""Tensors that wait together, and can be moved out of the way: from an accelerator to the CPU, from there to a file.

A forward pass that waits holds its activations by local variables of the model's code, so they cannot be replaced by
others. Their storages can be emptied and filled again, as FSDP does with parameters.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from graphprune.errors import SaveError

MOVABLE = ("cpu", "cuda", "xpu")
"""Devices on which a storage can be emptied and filled again."""


@dataclass(frozen=True)
class _MovedOut:
    """Where the content of a storage is: on the CPU, or from ``offset`` on in the file.

    Attributes:
        address: where it was.
    """

    storage: torch.UntypedStorage
    size: int
    address: int
    copy: torch.UntypedStorage | None
    offset: int


class TensorGroup:
    """Tensors of one owner. They are found by weak references, so those that the owner drops are freed as ever.

    Attributes:
        on_return: called with the new addresses of storages that were brought back, by the old ones.
    """

    def __init__(self) -> None:
        self.on_return: Callable[[dict[int, int]], None] = lambda addresses: None
        self._known: dict[int, tuple[Any, int]] = {}  # by the identity of the storage
        self._out: list[_MovedOut] = []
        self._file: Any = None
        self._end = 0

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Add tensors in memory of their own; those of other kinds than plain ones stay where they are."""
        for tensor in tensors:
            if type(tensor) is Tensor and tensor.layout is torch.strided and tensor.device.type in MOVABLE:
                storage = tensor.untyped_storage()
                if storage._cdata not in self._known and storage.resizable():
                    self._known[storage._cdata] = StorageWeakRef(storage), storage.nbytes()

    @property
    def size(self) -> int:
        """The bytes of all living tensors, wherever they are."""
        if any(ref.expired() for ref, _ in self._known.values()):
            self._known = {key: known for key, known in self._known.items() if not known[0].expired()}
        return sum(size for _, size in self._known.values())

    @property
    def moved_out(self) -> int:
        """The bytes that are not where they belong."""
        return sum(one.size for one in self._out)

    @property
    def on_host(self) -> int:
        """The bytes that were moved to the CPU."""
        return sum(one.size for one in self._out if one.copy is not None)

    @property
    def identities_out(self) -> list[int]:
        """The identities of the storages that are moved out."""
        return [one.storage._cdata for one in self._out]

    def move_out(self, host_room: int) -> None:
        """Move all tensors out.

        Args:
            host_room: as many bytes of those on accelerators go to the CPU; all else to a temporary file.

        Raises:
            SaveError: the file cannot be written. What was moved out before can be brought back.
        """
        for ref, _ in self._known.values():
            storage = torch.UntypedStorage._new_with_weak_ptr(ref.cdata)
            if storage is not None and storage.nbytes():
                one = self._moved(storage, host_room)
                host_room -= 0 if one.copy is None else one.size
                self._out.append(one)
                storage.resize_(0)

    def _moved(self, storage: torch.UntypedStorage, host_room: int) -> _MovedOut:
        """Write a storage to the file, or copy it to the CPU if it is elsewhere and there is room."""
        size, address, offset = storage.nbytes(), storage.data_ptr(), self._end
        copy = storage if storage.device.type == "cpu" else storage.cpu()
        if copy is not storage and size <= host_room:
            return _MovedOut(storage, size, address, copy, offset)
        self._write(copy, offset)
        self._end += size
        return _MovedOut(storage, size, address, None, offset)

    def bring_back(self) -> None:
        """Move all tensors back."""
        moved, self._out, self._end = self._out, [], 0
        for one in moved:
            one.storage.resize_(one.size)
            if one.copy is not None:
                one.storage.copy_(one.copy, False)
            else:
                self._read(one)
        self.on_return({one.address: one.storage.data_ptr() for one in moved})

    def close(self) -> None:
        """Delete the file. Tensors that are moved out stay empty."""
        if self._file is not None:
            self._file.close()  # it is deleted by the system, also after a crash
        self._file, self._out, self._known, self._end = None, [], {}, 0

    # ------------------------------------------------------------ file

    def _write(self, storage: torch.UntypedStorage, offset: int) -> None:
        with _spilling(storage.nbytes()):
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="graphprune-", buffering=0)  # noqa: SIM115 - open while the group lives
            self._file.seek(offset)
            left = memoryview(_bytes(storage)).cast("B")
            while left:
                left = left[self._file.write(left) :]

    def _read(self, one: _MovedOut) -> None:
        target = one.storage
        if target.device.type != "cpu":
            target = torch.UntypedStorage(one.size)
        self._file.seek(one.offset)
        left = memoryview(_bytes(target)).cast("B")
        while left:
            left = left[self._file.readinto(left) :]
        if target is not one.storage:
            one.storage.copy_(target, False)


@contextmanager
def _spilling(size: int) -> Iterator[None]:
    """Where bytes are written to a temporary file, say what the system refuses, and what to do.

    Raises:
        SaveError: there is no room for them, or no folder for temporary files.
    """
    try:
        yield
    except OSError as error:
        folder = tempfile.tempdir or "the folder of temporary files"  # None: the system has no folder to write to
        refused = SaveError(
            f"memory: a temporary file in {folder} could not be written: {error.strerror or error}",
            where=str(folder),
            found=str(error),
            needed=f"{size:,} bytes of space for this tensor there, and the right to write",
            do="set TMPDIR to a folder on a larger disk, or pass a larger memory=, beyond which tensors go to files",
        )
        refused.errno = error.errno
        raise refused from error


def _bytes(storage: torch.UntypedStorage) -> Any:
    """The memory of a storage on the CPU, as a buffer."""
    return (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
