"""Tensors in safetensors files, mapped into memory one by one: what is not in use takes no memory.

A file begins with the length of its header and the header, JSON that gives every tensor's type, shape and place
(https://github.com/huggingface/safetensors, README, Format).
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from msgspec import Struct
from torch import Tensor

from graphprune.errors import LoadError
from graphprune.utils.shard_index import INDEX, read_index
from graphprune.utils.typed_json import Count, convert_data, parse_json

SINGLE = "model.safetensors"

TENSOR_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The types of safetensors, by their names there."""

_DTYPES = {name: dtype for dtype, name in TENSOR_TYPES.items()}

_LONGEST_HEADER = 100_000_000
"""Bytes of a header at most, as the safetensors library has it."""

_MOST_DIMENSIONS = 64
"""Dimensions that torch's tensors have at most."""

_ADVICE = "get the file again"


class _Place(Struct, frozen=True):
    """What a header says of a tensor."""

    dtype: str
    shape: tuple[Count, ...]
    data_offsets: tuple[Count, Count]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its bytes begin at ``start``."""

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def map(self, shared: bool = False, keep: Callable[[mmap.mmap], object] | None = None) -> Tensor:
        """The tensor, mapped: its pages are read when they are used, and given back when it is let go of.

        Args:
            shared: what is written to it is written to the file. Otherwise it stays in memory.
            keep: is given the mapped memory.
        """
        if not self.nbytes:
            return torch.empty(self.shape, dtype=self.dtype, device="cpu")
        first = self.start - self.start % mmap.ALLOCATIONGRANULARITY
        access = mmap.ACCESS_WRITE if shared else mmap.ACCESS_COPY
        with self.path.open("r+b" if shared else "rb") as file:
            memory = mmap.mmap(file.fileno(), self.start + self.nbytes - first, access=access, offset=first)
        if keep is not None:
            keep(memory)
        entries = torch.frombuffer(memory, dtype=torch.uint8, offset=self.start - first, count=self.nbytes)
        entries = entries if entries.data_ptr() % self.dtype.itemsize == 0 else entries.clone()
        return entries.view(self.dtype).view(self.shape)


def stored_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file, by name.

    Raises:
        LoadError: it is no such file, or is damaged.
    """
    what = f"weights: {path}"
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise OSError("it is no file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            start = file.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
            if length > min(size - 8, _LONGEST_HEADER):
                raise LoadError(
                    f"{what}: is no whole safetensors file",
                    where=str(path),
                    found="a header that ends early, or is none",
                    needed="a whole file of safetensors",
                    do=_ADVICE,
                )
            text = file.read(length)
    except OSError as error:
        raise LoadError(
            f"{what}: cannot be read ({error})",
            where=str(path),
            found=str(error),
            needed="a whole file of safetensors",
            do=_ADVICE,
        ) from error
    data = parse_json(text.decode("utf-8", errors="replace"), what, _ADVICE)
    places = {n: v for n, v in data.items() if n != "__metadata__"} if isinstance(data, dict) else data
    known = convert_data(places, dict[str, _Place], what, _ADVICE)
    return {name: _stored(path, name, place, 8 + length, size) for name, place in known.items()}


def _stored(path: Path, name: str, place: _Place, base: int, size: int) -> StoredTensor:
    dtype = _DTYPES.get(place.dtype)
    if dtype is None:
        raise LoadError(
            f"weights: {path}: {name[:80]!r} is of type {place.dtype[:20]!r}, which is not known",
            where=f"{path}: {name[:80]}",
            found=f"the type {place.dtype[:20]!r}",
            needed=f"one of {', '.join(_DTYPES)}",
            do=_ADVICE,
        )
    begin, end = place.data_offsets
    found = StoredTensor(path, dtype, place.shape, base + begin)
    if len(place.shape) > _MOST_DIMENSIONS or max(place.shape, default=0) > size:
        raise LoadError(
            f"weights: {path}: {name[:80]!r} has a shape that no tensor of the file can have",
            where=f"{path}: {name[:80]}",
            found=f"{len(place.shape)} dimensions, the largest of {max(place.shape, default=0)} entries",
            needed=f"at most {_MOST_DIMENSIONS} dimensions, none longer than the file's {size} bytes",
            do=_ADVICE,
        )
    if end - begin != found.nbytes or base + end > size:
        raise LoadError(
            f"weights: {path}: {name[:80]!r} of shape {list(place.shape)} does not have {found.nbytes} bytes",
            where=f"{path}: {name[:80]}",
            found=f"{end - begin} bytes of a file of {size}",
            needed=f"{found.nbytes} bytes within the file",
            do=_ADVICE,
        )
    return found


class TensorFiles(Mapping[str, Tensor]):
    """The tensors of a folder that Transformers wrote: ``model.safetensors``, or an index and the files it names.

    Each is mapped anew when it is asked for.

    Raises:
        LoadError: there is neither, a file is missing or damaged, or the index and the files contradict each other.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = self._index()
        names = {SINGLE} if index is None else set(index.values())
        self.files = tuple(folder / name for name in sorted(names))
        self.stored: dict[str, StoredTensor] = {}
        for path in self.files:
            present = stored_tensors(path)
            if index is not None:
                _check_present(path, present, index)
            self.stored.update(present)

    def _index(self) -> dict[str, str] | None:
        """The index; None: there is a single file."""
        if not (self.folder / INDEX).is_file():
            if not (self.folder / SINGLE).is_file():
                raise LoadError(
                    f"weights: {self.folder} has neither {SINGLE} nor {INDEX}",
                    where=str(self.folder),
                    found="neither file",
                    needed=f"{SINGLE} or {INDEX}",
                    do="pass a folder with safetensors files, as save_pretrained of Transformers writes it",
                )
            return None
        what = f"weights: {self.folder / INDEX}"
        index = read_index(self.folder / INDEX, what, _ADVICE)
        for name in sorted(set(index.values())):
            if not name.endswith(".safetensors"):
                raise LoadError(
                    f"{what}: names the file {name[:80]!r}, which is none of safetensors",
                    where=str(self.folder / INDEX),
                    found=repr(name[:80]),
                    needed="names of safetensors files",
                    do=_ADVICE,
                )
        return index

    def __getitem__(self, name: str) -> Tensor:
        return self.stored[name].map()

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


def _check_present(path: Path, present: Collection[str], index: Mapping[str, str]) -> None:
    """Raise a LoadError if a tensor is not in the file that the index gives for it."""
    missing = sorted(n for n, file in index.items() if file == path.name and n not in present)
    if missing:
        raise LoadError(
            f"weights: {path}: has no {missing[0][:80]!r}, which {INDEX} says is in it ({len(missing)} such)",
            where=f"{path}: {missing[0][:80]}",
            found=f"{len(present)} tensors, without {len(missing)} of the index",
            needed=f"what {INDEX} says",
            do=_ADVICE,
        )


def header_text(tensors: Mapping[str, Tensor], order: list[str], notes: Mapping[str, str], alignment: int) -> bytes:
    """The beginning of a safetensors file: the length of the header and the header.

    Args:
        tensors: by name, on any device; their types are among :data:`TENSOR_TYPES`.
        order: their names in the order in which the entries follow.
        notes: strings by name, for the file's metadata.
        alignment: the first entry begins at a multiple of it.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt", **notes}}
    end = 0
    for name in order:
        tensor, begin = tensors[name], end
        end += tensor.nbytes
        header[name] = {"dtype": TENSOR_TYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % alignment)
    return struct.pack("<Q", len(text)) + text
